"""Engines that load: where a backend gets them from, before a stand-in for TensorRT that builds and refuses as it does.

Builds by the real TensorRT-RTX are in test_engine_rtx.py.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_gpu import Code
from fake_tensorrt import VERSION, FakeTensorRT

pytest.importorskip("onnx")

from engine_runs import BOTH, built, entries, runs
from small_bundle import SHAPES, small_bundle, text_model

from psamf_edge.backends import open_backend
from psamf_edge.backends.engine_builder import LOW_MEMORY_WORKSPACE, WORKSPACE, BuildError, BuildOptions, EngineBuilder
from psamf_edge.backends.profile import ranges_of
from psamf_edge.bundle import Bundle, EngineOrigin, open_bundle
from psamf_edge.errors import IntegrityError, MissingDependencyError, PsamfError, UsageError

ORIGIN = EngineOrigin("tensorrt_rtx", VERSION, "the stand-in")


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_a_bundle_without_engines_gets_them_once(bare: Bundle, gpu, trt, device: str) -> None:
    note = runs(bare, device)
    assert note == "TensorRT built 2 engines on this machine (text, fusion), since the bundle carries none."
    assert built(trt) == BOTH
    assert runs(bare, device) is None
    assert built(trt) == []
    assert gpu.is_clean
    assert not trt.host_code_allowed


def test_engines_of_the_bundle_that_fit_are_used(tmp_path: Path, gpu, trt, engine_cache: Path) -> None:
    for capability in (None, "8.7"):
        bundle = small_bundle(tmp_path / f"{capability}.psamf", engines=replace(ORIGIN, capability=capability))
        assert runs(bundle) is None
    assert built(trt) == []
    assert not entries(engine_cache, "engine")


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ({"version": "1.6.0"}, rf"for tensorrt_rtx 1\.6\.0, and tensorrt_rtx {VERSION} is installed here\.$"),
        ({"flavour": "tensorrt"}, rf"for tensorrt {VERSION}, and tensorrt_rtx {VERSION} is installed here\.$"),
        ({"capability": "8.6"}, r"for the compute capability 8\.6, and this GPU has 8\.7\.$"),
    ],
)
def test_engines_of_the_bundle_that_do_not_fit(tmp_path, gpu, trt, origin: dict, why: str) -> None:
    bundle = small_bundle(tmp_path / "b.psamf", engines=replace(ORIGIN, **origin))
    note = runs(bundle)
    assert note.startswith("TensorRT built 2 engines on this machine (text, fusion), since those of the bundle are ")
    assert re.search(why, note)
    assert built(trt) == BOTH
    assert runs(bundle) is None
    assert built(trt) == []


def test_an_engine_of_the_bundle_that_tensorrt_refuses_is_built_anew(tmp_path, gpu, trt) -> None:
    stale = b'stand-in engine {"version": "1.5", "plugin": null}\n'
    bundle = small_bundle(tmp_path / "b.psamf", engines=ORIGIN, fusion=stale)
    note = runs(bundle)
    assert built(trt) == ["pooled"]  # the other one loads, and stays
    assert note == (
        "TensorRT built one engine on this machine (fusion), since fusion.engine of the bundle does not load here"
        " (TensorRT cannot load the engine of the segment fusion: 1: the magic tag does not match)."
    )
    assert runs(bundle) is None
    assert built(trt) == []


def test_a_damaged_bundle_is_never_built_over(tmp_path, gpu, trt) -> None:
    for name in ("fusion.engine", "fusion.onnx"):
        origin = ORIGIN if name.endswith("engine") else None
        bundle = small_bundle(tmp_path / f"{name}.psamf", engines=origin)
        content = bytearray((bundle.path / name).read_bytes())
        content[-1] ^= 1
        (bundle.path / name).write_bytes(content)
        with pytest.raises(IntegrityError, match="SHA-256"):
            open_backend(open_bundle(bundle.path), "cuda")
    assert "pooled" not in built(trt)
    assert gpu.is_clean


def test_other_gpu_precision_and_bundle_have_engines_of_their_own(bare: Bundle, gpu, trt, tmp_path) -> None:
    runs(bare)
    for bundle in (small_bundle(tmp_path / "half.psamf", precision="fp16"), replace(bare, manifest_sha256="0" * 64)):
        assert built(trt) == BOTH
        assert "since the bundle carries none" in runs(bundle)
    assert built(trt) == BOTH
    gpu.capability = (8, 9)
    assert runs(bare).endswith("since those in the cache have the capability 8.7, and 8.9 is due.")


def test_low_memory(bare: Bundle, gpu, trt, monkeypatch, tmp_path) -> None:
    runs(bare)
    assert (trt.builder.workspaces, trt.builder.threads, trt.builder.aux_streams) == (
        [WORKSPACE] * 2,
        [4] * 2,
        [-1] * 2,
    )
    monkeypatch.setenv("PSAMF_EDGE_LOW_MEMORY", "1")
    assert runs(bare).endswith("since those in the cache have the options default, and low memory is due.")
    assert trt.builder.workspaces[2:] == [LOW_MEMORY_WORKSPACE] * 2
    assert (trt.builder.threads[2:], trt.builder.aux_streams[2:]) == ([1, 1], [0, 0])
    built(trt)
    bundle = small_bundle(tmp_path / "b.psamf", engines=ORIGIN)
    assert runs(bundle).endswith("since those of the bundle were built with other options than low memory.")
    assert runs(small_bundle(tmp_path / "low.psamf", engines=replace(ORIGIN, options="low memory"))) is None
    for value in ("", "0"):
        monkeypatch.setenv("PSAMF_EDGE_LOW_MEMORY", value)
        assert runs(bundle) is None


def test_the_profile_is_the_bundles(bare: Bundle, gpu, trt) -> None:
    runs(bare)
    assert trt.builder.profiles == [
        dict.fromkeys(("ids", "text_mask"), ((1, 1), (1, 50), (1, 128))),
        {"pooled": ((1, 1),) * 3, "present": ((1, 1, 3), (1, 4, 3), (1, 4, 3))},
    ]


def test_export_and_runtime_have_one_idea_of_sizes() -> None:
    pytest.importorskip("torch")
    from psamf_edge.compile.export.segments import axis_ranges
    from psamf_edge.compile.model.bert import BertConfig
    from psamf_edge.compile.model.student import StudentConfig

    bert = BertConfig(vocabulary=32, width=8, heads=2, feed_forward=16, blocks=1, positions=128)
    assert axis_ranges(StudentConfig(63, 69, bert)) == ranges_of(SHAPES)
    assert ranges_of(replace(SHAPES, max_tokens=40))["tokens"] == (1, 40, 40)


def test_timings_that_tensorrt_refuses_are_begun_anew(gpu, monkeypatch, bare) -> None:
    stand_in = FakeTensorRT(gpu)
    stand_in.install(monkeypatch, "tensorrt")
    builder = EngineBuilder("tensorrt")
    builder.timings = b"junk of another version"
    builder.build(bare.read("text.onnx"), "text", ranges_of(SHAPES))
    assert (stand_in.builder.timings, builder.timings) == ([b""], b"ids took 3 us\n")


@pytest.mark.parametrize(
    ("refuse", "message"),
    [
        ("parse", r"segment text does not parse:\nIn node node 7 \(MatMul\): UNSUPPORTED_NODE"),
        (
            "build",
            r"No engine could be built of the segment text:\n1: could not find any implementation for node MatMul_7",
        ),
    ],
)
def test_none_becomes_an_error_with_the_log(bare, gpu, trt, engine_cache, refuse: str, message: str) -> None:
    trt.builder.refuse = refuse
    for device in ("cuda", "auto"):  # not a missing thing, so auto does not hide it
        with pytest.raises(BuildError, match=message):
            open_backend(bare, device)
    assert gpu.is_clean
    trt.builder.refuse = ""
    runs(bare)


def test_a_builder_that_does_not_start(bare: Bundle, gpu, trt) -> None:
    trt.builder.refuse = "builder"
    with pytest.raises(MissingDependencyError, match="no CUDA-capable device is detected"):
        open_backend(bare, "cuda")
    with open_backend(bare, "auto") as backend:
        assert backend.name == "onnxruntime"
        assert "no CUDA-capable device" in backend.note


def test_an_axis_that_nothing_gives_a_size(gpu, trt) -> None:
    model = text_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "words"
    with pytest.raises(BuildError, match="ids of the segment text has an axis 'words'"):
        EngineBuilder("tensorrt_rtx").build(model.SerializeToString(), "text", ranges_of(SHAPES))


def test_a_cpu_bundle_on_a_gpu(tmp_path: Path, gpu, trt) -> None:
    """Where this ONNX Runtime has no CUDA, and TensorRT is there."""
    bundle = small_bundle(tmp_path / "cpu.psamf", "cpu")
    assert "since the bundle carries none" in runs(bundle)
    with open_backend(bundle, "auto") as backend:  # which builds nothing that nobody asked for
        assert backend.name == "onnxruntime"
    with pytest.raises(UsageError, match="int8 operators do not exist on a GPU"):
        open_backend(small_bundle(tmp_path / "int8.psamf", "cpu", "int8"), "cuda")
    gpu.fail["cuDeviceGet"] = Code.CUDA_ERROR_NO_DEVICE
    with pytest.raises(MissingDependencyError, match="onnxruntime-gpu"):
        open_backend(bundle, "cuda")


def test_the_other_flavour_serves_where_the_named_one_is_not(bare: Bundle, gpu, trt, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorrt-rtx"):
        open_backend(bare, "cuda")
    FakeTensorRT(gpu).install(monkeypatch, "tensorrt")
    assert "2 engines" in runs(bare)


def test_a_low_memory_option_is_named_in_the_manifest() -> None:
    assert (BuildOptions().name, BuildOptions(low_memory=True).name) == (None, "low memory")


@pytest.mark.parametrize("call", ["cuCtxPushCurrent", "cuMemAlloc", "cuStreamCreate"])
def test_a_backend_that_does_not_open_leaks_nothing(bare: Bundle, gpu, trt, call: str) -> None:
    gpu.fail[call] = Code.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(PsamfError, match=f"{call}: CUDA_ERROR_OUT_OF_MEMORY"):
        open_backend(bare, "cuda")
    assert gpu.contexts_held == 0
    if call != "cuCtxPushCurrent":  # with no context nothing can be given back but the context
        assert gpu.is_clean
    gpu.fail.clear()
    runs(bare)
