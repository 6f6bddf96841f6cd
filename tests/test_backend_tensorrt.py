"""The TensorRT backend on a stand-in for the GPU: the scores, what is put on which stream, and each way to fail."""

from __future__ import annotations

import math
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import install_pycuda
from fake_gpu import Code, FakeGpu
from fake_tensorrt import SCRATCH, VERSION, FakeTensorRT
from gpu_bundles import features, with_engines

from psamf_edge.backends import executor, open_backend
from psamf_edge.bundle import Bundle, EngineOrigin
from psamf_edge.errors import InputError, IntegrityError, MissingDependencyError, PsamfError, UsageError

pytest.importorskip("onnx")

PRESENCES = ("tav", "v", "ta", "a", "tv", "t", "av")
# Padding changes the order of sums over tokens and steps, and nothing else: some float32 rounding in twenty layers.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def engine_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_engines(tiny_bundle, tmp_path_factory.mktemp("engines") / "engines.psamf")


def assert_same(ours, theirs) -> None:
    assert ours.score == pytest.approx(theirs.score, abs=TOLERANCE)
    assert ours.confidence == pytest.approx(theirs.confidence, abs=TOLERANCE)
    assert ours.contributions == pytest.approx(theirs.contributions, abs=2 * TOLERANCE)


def scores_agree(engine_bundle: Bundle, cpu_bundle: Bundle) -> None:
    """For every set of modalities, step by step and then as a graph, with padding and without."""
    with open_backend(engine_bundle, "cuda") as ours, open_backend(cpu_bundle, "cpu") as theirs:
        assert (ours.name, ours.precision, ours.note) == ("tensorrt", "fp32", None)
        for seed, present in enumerate(PRESENCES):
            for sizes in ((11, 301, 29), (15, 290, 25), (16, 384, 32)):  # one bucket, the last of them full
                given = features(cpu_bundle, present, seed, sizes)
                assert_same(ours.run(given), theirs.run(given))


def test_equals_onnxruntime_for_every_presence(engine_bundle: Bundle, tiny_bundle: Bundle, gpu, trt) -> None:
    scores_agree(engine_bundle, tiny_bundle)
    assert gpu.names().count("cuGraphInstantiate") == len(PRESENCES)
    assert gpu.names().count("cuGraphLaunch") == 2 * len(PRESENCES)
    assert gpu.is_clean
    assert not trt.host_code_allowed


def test_full_tensorrt(engine_bundle: Bundle, tiny_bundle: Bundle, gpu, monkeypatch, tmp_path: Path) -> None:
    FakeTensorRT(gpu).install(monkeypatch, "tensorrt")
    scores_agree(with_engines(tiny_bundle, tmp_path / "full.psamf", "tensorrt"), tiny_bundle)
    assert gpu.is_clean


def test_memory_that_both_share_needs_no_copies(engine_bundle: Bundle, tiny_bundle: Bundle, gpu, trt) -> None:
    gpu.integrated = True
    scores_agree(engine_bundle, tiny_bundle)
    assert not [name for name in gpu.names() if name.startswith("cuMemcpy")]
    assert gpu.is_clean


def test_pycuda_runs_step_by_step(engine_bundle: Bundle, tiny_bundle: Bundle, monkeypatch, caplog) -> None:
    gpu = FakeGpu()
    install_pycuda(gpu, monkeypatch)
    FakeTensorRT(gpu).install(monkeypatch)
    scores_agree(engine_bundle, tiny_bundle)
    assert [record.getMessage() for record in caplog.records] == [
        "Scoring runs step by step, without a CUDA graph. pycuda has no CUDA graphs: `pip install cuda-bindings`, and"
        " each utterance is one launch."
    ]
    assert gpu.is_clean


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 7, 3), (17, 129, 17), (128, 3000, 300)], ids=str)
def test_least_and_greatest_sizes(engine_bundle: Bundle, tiny_bundle: Bundle, gpu, trt, sizes: tuple) -> None:
    with open_backend(engine_bundle, "cuda") as ours, open_backend(tiny_bundle, "cpu") as theirs:
        given = features(tiny_bundle, sizes=sizes)
        for _ in range(2):
            assert_same(ours.run(given), theirs.run(given))


def test_the_same_features_give_the_same_bits(engine_bundle: Bundle, gpu, trt) -> None:
    with open_backend(engine_bundle, "cuda") as backend:
        given = features(engine_bundle)
        first = backend.run(given)
        backend.run(features(engine_bundle, seed=1, sizes=(16, 380, 32)))  # fuller, and in the same buffers
        assert backend.run(given) == first


def test_order_streams_and_events_of_one_utterance(engine_bundle: Bundle, gpu, trt) -> None:
    with open_backend(engine_bundle, "cuda") as backend:
        main, side = gpu.streams
        forked, joined = gpu.events
        gpu.calls.clear()
        backend.run(features(engine_bundle))
        started = gpu.names().index("cuMemcpyHtoDAsync")
        steps = gpu.calls[started : gpu.names().index("cuStreamSynchronize") + 1]
    name, size, stream = steps[0][0], *steps[0][3:]
    # 16 tokens of int64 and their mask, 384 hops of 63, 32 frames of 69, their masks, 4 x 3 rows: each on 256 bytes
    pieces = (16 * 8, 16 * 4, 384 * 63 * 4, 384 * 4, 32 * 69 * 4, 32 * 4, 4 * 3 * 4)
    assert size == sum(math.ceil(piece / 256) * 256 for piece in pieces)
    assert (name, stream) == ("cuMemcpyHtoDAsync", main)
    assert [call for call in steps[1:] if call[0] != "cuMemcpyDtoHAsync"] == [
        ("cuEventRecord", forked, main),
        ("cuStreamWaitEvent", side, forked, 0),
        ("execute_async_v3", "ids", main),
        ("execute_async_v3", "audio", side),
        ("execute_async_v3", "face", side),
        ("cuEventRecord", joined, side),
        ("cuStreamWaitEvent", main, joined, 0),
        ("execute_async_v3", "hidden", main),
        ("cuStreamSynchronize", main),
    ]
    assert steps[-2][0] == "cuMemcpyDtoHAsync"
    assert steps[-2][3:] == (512, main)  # score and log_scale, four numbers each, on 256 bytes


def test_without_text_there_is_nothing_to_run_beside(engine_bundle: Bundle, gpu, trt) -> None:
    with open_backend(engine_bundle, "cuda") as backend:
        main = next(iter(gpu.streams))
        gpu.calls.clear()
        backend.run(features(engine_bundle, "av"))
        assert {call[2] for call in gpu.calls if call[0] == "execute_async_v3"} == {main}
        assert "cuEventRecord" not in gpu.names()


def test_a_bucket_is_captured_once_and_replayed(engine_bundle: Bundle, gpu, trt) -> None:
    with open_backend(engine_bundle, "cuda") as backend:
        backend.run(features(engine_bundle, "ta", sizes=(11, 301, 0)))
        assert gpu.names().count("cuStreamBeginCapture") == 1
        gpu.calls.clear()
        backend.run(features(engine_bundle, "ta", sizes=(9, 260, 0)))
        assert gpu.names() == ["cuCtxPushCurrent", "cuGraphLaunch", "cuStreamSynchronize", "cuCtxPopCurrent"]
        gpu.calls.clear()
        backend.run(features(engine_bundle, "ta", sizes=(9, 400, 0)))  # the next rung of the voice
        assert gpu.names().count("cuStreamBeginCapture") == 1
        assert gpu.names().index("cuStreamBeginCapture") > gpu.names().index("cuStreamSynchronize")  # warm before


def test_memory_is_allocated_once_for_the_greatest_sizes(engine_bundle: Bundle, gpu, trt) -> None:
    with open_backend(engine_bundle, "cuda") as backend:
        sizes = [call[1] for call in gpu.calls if call[0] == "cuMemAlloc"]
        assert sizes.count(SCRATCH) == 2  # one for each stream
        shapes = engine_bundle.shapes
        assert {128 * shapes.hidden * 4, 375 * shapes.width * 4, 300 * shapes.width * 4} <= set(sizes)
        assert max(sizes) > 3000 * shapes.audio_features * 4  # the inputs together
        for sizes in ((1, 1, 1), (128, 3000, 300), (20, 500, 50)):
            backend.run(features(engine_bundle, sizes=sizes))
        assert gpu.names().count("cuMemAlloc") == len(gpu.memory)
        assert gpu.names().count("cuMemAlloc") == 2 + 2 + 7  # blocks in and out, scratch, what the segments hand on


def test_the_bucket_that_was_not_used_for_longest_goes(engine_bundle: Bundle, gpu, trt, monkeypatch) -> None:
    monkeypatch.setattr(executor, "MOST_BUCKETS", 2)
    with open_backend(engine_bundle, "cuda") as backend:
        for tokens in (10, 20, 10, 30):  # 20's bucket is the older one when 30's comes
            backend.run(features(engine_bundle, "t", sizes=(tokens, 0, 0)))
        assert len(gpu.graphs) == 2
        assert len(trt.contexts) == 4
        gpu.calls.clear()
        backend.run(features(engine_bundle, "t", sizes=(10, 0, 0)))
        assert "cuStreamBeginCapture" not in gpu.names()
        backend.run(features(engine_bundle, "t", sizes=(20, 0, 0)))
        assert "cuStreamBeginCapture" in gpu.names()


@pytest.mark.parametrize("reason", ["capture", "capturable", "cuStreamBeginCapture", "cuGraphInstantiate"])
def test_a_refused_capture_is_said_once(engine_bundle, tiny_bundle, gpu, trt, caplog, reason: str) -> None:
    if reason.startswith("cu"):
        gpu.fail[reason] = Code.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    else:
        trt.refuse = reason
    scores_agree(engine_bundle, tiny_bundle)
    said = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("Scoring runs step by step, without a CUDA graph.") for line in said)
    assert len(said) == len(set(said)) > 0
    assert "cuGraphLaunch" not in gpu.names()
    assert gpu.is_clean


def test_everything_is_given_back(engine_bundle: Bundle, gpu, trt) -> None:
    backend = open_backend(engine_bundle, "cuda")
    backend.run(features(engine_bundle))
    assert (gpu.contexts_held, len(gpu.streams), len(gpu.events), len(gpu.graphs)) == (1, 2, 2, 1)
    gpu.calls.clear()
    backend.close()
    backend.close()
    assert gpu.is_clean
    assert len(trt.contexts) == 0
    names = gpu.names()
    assert names[0] == "cuCtxPushCurrent"
    assert names[1] == "cuGraphExecDestroy"  # before the memory and the streams that it uses
    assert names[-2:] == ["cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"]
    with pytest.raises(UsageError, match="closed"):
        backend.run(features(engine_bundle))


def test_the_callers_own_context_stays(engine_bundle: Bundle, gpu, trt) -> None:
    gpu.context_stack.append("another library's")
    with open_backend(engine_bundle, "cuda") as backend:
        backend.run(features(engine_bundle))
        assert gpu.context_stack == ["another library's"]
    assert gpu.context_stack == ["another library's"]


def test_several_threads_take_turns(engine_bundle: Bundle, tiny_bundle: Bundle, gpu, trt) -> None:
    given = [features(tiny_bundle, "tav", seed, (5 + seed, 100 * seed + 20, 10 + seed)) for seed in range(6)]
    got: dict[int, object] = {}
    with open_backend(engine_bundle, "cuda") as ours, open_backend(tiny_bundle, "cpu") as theirs:

        def score(index: int) -> None:
            for _ in range(2):
                got[index] = ours.run(given[index])

        threads = [threading.Thread(target=score, args=(index,)) for index in range(len(given))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index, value in enumerate(given):
            assert_same(got[index], theirs.run(value))
        closer = threading.Thread(target=ours.close)
        closer.start()
        closer.join()
    assert gpu.is_clean


@pytest.mark.parametrize("refuse", ["engine", "context"])
def test_none_becomes_an_error_with_the_log(engine_bundle: Bundle, gpu, trt, refuse: str) -> None:
    trt.refuse = refuse
    with pytest.raises(MissingDependencyError, match="engine of the segment text") as caught:
        open_backend(engine_bundle, "cuda")
    if refuse == "engine":
        assert "the magic tag does not match" in str(caught.value)
        assert "chatter" not in str(caught.value)
    assert gpu.is_clean


@pytest.mark.parametrize("refuse", ["shape", "execute"])
def test_a_failed_run_names_the_segment_and_leaves_nothing(engine_bundle, tiny_bundle, gpu, trt, refuse: str) -> None:
    given = features(tiny_bundle)
    with open_backend(engine_bundle, "cuda") as backend, open_backend(tiny_bundle, "cpu") as theirs:
        trt.refuse = refuse
        with pytest.raises(InputError, match="segment text"):
            backend.run(given)
        assert len(trt.contexts) == 0
        trt.refuse = ""
        assert_same(backend.run(given), theirs.run(given))
    assert gpu.is_clean


def test_nothing_runs_on_after_a_failure(engine_bundle: Bundle, tiny_bundle: Bundle, gpu, trt) -> None:
    """The side stream has its copy of the voice still to read when the fusion fails, and the buffers are used again."""
    with open_backend(engine_bundle, "cuda") as backend, open_backend(tiny_bundle, "cpu") as theirs:
        trt.refuse = "execute face"  # after text and voice were queued, before anything waits for the voice
        with pytest.raises(InputError, match="segment face"):
            backend.run(features(tiny_bundle))
        assert not any(stream.queue for stream in gpu.streams.values())
        trt.refuse = ""
        given = features(tiny_bundle, seed=1)
        assert_same(backend.run(given), theirs.run(given))
    assert gpu.is_clean


CALLS = [
    "cuCtxPushCurrent", "cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuEventCreate", "cuMemAlloc", "cuMemHostAlloc",
    "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuEventRecord", "cuStreamWaitEvent", "cuStreamSynchronize",
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_driver_errors_are_named_and_leak_nothing(engine_bundle: Bundle, gpu, trt, call: str) -> None:
    def run() -> None:
        with open_backend(engine_bundle, "cuda") as backend:
            backend.run(features(engine_bundle))

    gpu.fail[call] = Code.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(PsamfError, match=f"{call}: CUDA_ERROR_OUT_OF_MEMORY"):
        run()
    if call != "cuCtxPushCurrent":  # with no context nothing can be given back but the context
        assert not gpu.memory
        assert not gpu.streams
    assert gpu.contexts_held == 0


def test_a_replay_that_fails_costs_its_bucket_alone(engine_bundle, tiny_bundle, gpu, trt) -> None:
    given = features(tiny_bundle)
    with open_backend(engine_bundle, "cuda") as backend, open_backend(tiny_bundle, "cpu") as theirs:
        backend.run(given)
        gpu.fail["cuGraphLaunch"] = Code.CUDA_ERROR_INVALID_VALUE
        with pytest.raises(PsamfError, match="cuGraphLaunch: CUDA_ERROR_INVALID_VALUE"):
            backend.run(given)
        assert not gpu.graphs
        gpu.fail.clear()
        assert_same(backend.run(given), theirs.run(given))
    assert gpu.is_clean


def test_what_cannot_be_given_back_hides_nothing_else(engine_bundle: Bundle, gpu, trt) -> None:
    backend = open_backend(engine_bundle, "cuda")
    gpu.fail["cuEventDestroy"] = Code.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(PsamfError, match="cuEventDestroy: CUDA_ERROR_ILLEGAL_ADDRESS"):
        backend.close()
    backend.close()
    assert (gpu.contexts_held, gpu.memory, gpu.streams) == (0, {}, {})


def test_without_a_gpu(engine_bundle: Bundle, gpu, trt) -> None:
    gpu.fail["cuDeviceGet"] = Code.CUDA_ERROR_NO_DEVICE
    with pytest.raises(MissingDependencyError, match="CUDA_ERROR_NO_DEVICE") as caught:
        open_backend(engine_bundle, "cuda")
    assert caught.value.exit_code == 3
    with open_backend(engine_bundle, "auto") as backend:
        assert backend.name == "onnxruntime"
        assert "No NVIDIA GPU" in backend.note
        backend.run(features(engine_bundle))


@pytest.mark.parametrize("module", ["tensorrt_rtx", "cuda.bindings"])
def test_missing_packages_are_named(engine_bundle: Bundle, gpu, trt, monkeypatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    package = {"tensorrt_rtx": "tensorrt-rtx", "cuda.bindings": "cuda-bindings"}[module]
    with pytest.raises(MissingDependencyError, match=f"pip install {package}"):
        open_backend(engine_bundle, "cuda")


def test_engines_of_another_version_or_an_unknown_flavour(engine_bundle: Bundle, gpu, trt) -> None:
    other = replace(engine_bundle, engines=replace(engine_bundle.engines, version="1.6.0"))
    with open_backend(other, "cuda") as backend:  # built anew: test_engine_source.py
        assert "1.6.0" in backend.note
    for flavour in ("os", "tensorrt_rtx.evil"):  # a manifest must not choose what is imported
        with pytest.raises(IntegrityError, match="flavour"):
            open_backend(replace(engine_bundle, engines=EngineOrigin(flavour, VERSION, "")), "cuda")


def test_a_plan_that_does_not_end_with_the_score(engine_bundle: Bundle, gpu, trt) -> None:
    *rest, fusion = engine_bundle.plan
    with pytest.raises(IntegrityError, match="its last step gives hidden"):
        open_backend(replace(engine_bundle, plan=(*rest, fusion, rest[0])), "cuda")
    assert gpu.is_clean


def test_an_engine_that_would_write_past_its_buffer(engine_bundle: Bundle, gpu, trt, monkeypatch) -> None:
    import fake_tensorrt

    with open_backend(engine_bundle, "cuda") as backend:
        monkeypatch.setattr(fake_tensorrt.Context, "get_tensor_shape", lambda self, name: (1, 10**6))
        with pytest.raises(IntegrityError, match="hidden the shape"):
            backend.run(features(engine_bundle))


def test_a_damaged_engine_never_reaches_tensorrt(engine_bundle: Bundle, gpu, trt, tmp_path: Path) -> None:
    import shutil

    from psamf_edge.bundle import open_bundle

    shutil.copytree(engine_bundle.path, tmp_path / "b.psamf")
    content = bytearray((tmp_path / "b.psamf" / "face.engine").read_bytes())
    content[100] ^= 1
    (tmp_path / "b.psamf" / "face.engine").write_bytes(content)
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_backend(open_bundle(tmp_path / "b.psamf"), "cuda")
    assert gpu.is_clean


def test_features_are_checked_before_anything_runs(engine_bundle: Bundle, gpu, trt) -> None:
    with open_backend(engine_bundle, "cuda") as backend:
        given = features(engine_bundle)
        given.audio[3, 5] = np.nan
        gpu.calls.clear()
        with pytest.raises(InputError, match="The audio has"):
            backend.run(given)
        assert gpu.names() == ["cuCtxPushCurrent", "cuCtxPopCurrent"]
