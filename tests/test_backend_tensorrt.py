"""The TensorRT backend on a stand-in for the GPU: the flow of data, the order of calls, and each way to fail."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_gpu import VERSION, Code, FakeGpu

from psamf_edge.backends import open_backend
from psamf_edge.bundle import Bundle, EngineOrigin
from psamf_edge.errors import InputError, IntegrityError, MissingDependencyError, PsamfError, UsageError
from psamf_edge.plan import Features

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def engine_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with an engine for each segment, which is the ONNX file under another name."""
    from psamf_edge.compile.export.pack import BundleContent, write_bundle

    files = {name: tiny_bundle.read(name) for name in tiny_bundle.files}
    files |= {f"{segment.name}.engine": files[segment.file] for segment in tiny_bundle.plan}
    plan = tuple(replace(segment, engine=f"{segment.name}.engine") for segment in tiny_bundle.plan)
    origin = EngineOrigin("tensorrt_rtx", VERSION, "the stand-in")
    content = BundleContent("engines", "rtx", "fp32", plan, tiny_bundle.shapes, "x", origin)
    return write_bundle(tmp_path_factory.mktemp("engines") / "engines.psamf", content, files)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    stand_in = FakeGpu()
    stand_in.install(monkeypatch)
    return stand_in


def features(bundle: Bundle, present: str = "tav", seed: int = 0) -> Features:
    rng, shapes = np.random.default_rng(seed), bundle.shapes
    return Features(
        rng.integers(0, shapes.vocabulary, 11) if "t" in present else None,
        rng.standard_normal((301, shapes.audio_features), np.float32) if "a" in present else None,
        rng.standard_normal((29, shapes.face_features), np.float32) if "v" in present else None,
    )


def test_equals_onnxruntime_for_every_presence(engine_bundle: Bundle, tiny_bundle: Bundle, gpu: FakeGpu) -> None:
    with open_backend(engine_bundle, "cuda") as ours, open_backend(tiny_bundle, "cpu") as theirs:
        assert (ours.name, ours.precision, ours.note) == ("tensorrt", "fp32", None)
        for seed, present in enumerate(("tav", "v", "ta", "a", "tv", "t", "av", "tav")):
            given = features(tiny_bundle, present, seed)
            assert ours.run(given) == theirs.run(given)  # the same ONNX Runtime below, so the same bits
    assert not gpu.host_code_allowed


def test_order_of_calls(engine_bundle: Bundle, gpu: FakeGpu) -> None:
    with open_backend(engine_bundle, "cuda") as backend:
        gpu.calls.clear()
        backend.run(features(engine_bundle, "t"))
    text = ["cuMemcpyHtoDAsync", "set_input_shape"] * 2 + ["set_tensor_address"] * 3 + ["execute_async_v3"]
    # hidden is on the device and text_mask comes again with the fusion's other seven: one copy less than shapes
    assert gpu.calls[: 1 + len(text)] == ["cuCtxSetCurrent", *text]
    run = gpu.calls[: gpu.calls.index("cuStreamSynchronize") + 1]
    assert run.count("execute_async_v3") == 2
    assert run.count("cuStreamSynchronize") == 1
    assert run[-3:] == ["cuMemcpyDtoHAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize"]
    assert run.index("execute_async_v3") > max(i for i, name in enumerate(run[:9]) if name == "set_tensor_address")


def test_everything_is_given_back(engine_bundle: Bundle, gpu: FakeGpu) -> None:
    backend = open_backend(engine_bundle, "cuda")
    assert (gpu.contexts_held, gpu.streams) == (1, 1)
    assert gpu.memory
    backend.close()
    backend.close()
    assert (gpu.contexts_held, gpu.streams, gpu.memory) == (0, 0, {})
    with pytest.raises(UsageError, match="closed"):
        backend.run(features(engine_bundle))


@pytest.mark.parametrize(("refuse", "error"), [("engine", IntegrityError), ("context", IntegrityError)])
def test_none_becomes_an_error_with_the_log(engine_bundle: Bundle, gpu: FakeGpu, refuse: str, error: type) -> None:
    gpu.refuse = refuse
    with pytest.raises(error, match=r"text\.engine") as caught:
        open_backend(engine_bundle, "cuda")
    if refuse == "engine":
        assert "the magic tag does not match" in str(caught.value)
        assert "chatter" not in str(caught.value)
    assert (gpu.contexts_held, gpu.streams, gpu.memory) == (0, 0, {})


@pytest.mark.parametrize("refuse", ["shape", "execute"])
def test_a_failed_run_names_the_segment(engine_bundle: Bundle, gpu: FakeGpu, refuse: str) -> None:
    with open_backend(engine_bundle, "cuda") as backend:
        gpu.refuse = refuse
        with pytest.raises(InputError, match="segment text"):
            backend.run(features(engine_bundle))


@pytest.mark.parametrize("call", ["cuStreamCreate", "cuMemAlloc", "cuMemcpyHtoDAsync", "cuStreamSynchronize"])
def test_driver_errors_are_named(engine_bundle: Bundle, gpu: FakeGpu, call: str) -> None:
    gpu.fail[call] = Code.CUDA_ERROR_INVALID_VALUE
    with (
        pytest.raises(PsamfError, match=f"{call}: CUDA_ERROR_INVALID_VALUE"),
        open_backend(engine_bundle, "cuda") as backend,
    ):
        backend.run(features(engine_bundle))
    assert gpu.contexts_held == 0


def test_without_a_gpu(engine_bundle: Bundle, gpu: FakeGpu) -> None:
    gpu.fail["cuDeviceGet"] = Code.CUDA_ERROR_NO_DEVICE
    with pytest.raises(MissingDependencyError, match="CUDA_ERROR_NO_DEVICE") as caught:
        open_backend(engine_bundle, "cuda")
    assert caught.value.exit_code == 3
    with open_backend(engine_bundle, "auto") as backend:
        assert backend.name == "onnxruntime"
        assert "No NVIDIA GPU" in backend.note
        backend.run(features(engine_bundle))


@pytest.mark.parametrize("module", ["tensorrt_rtx", "cuda.bindings"])
def test_missing_packages_are_named(engine_bundle: Bundle, gpu: FakeGpu, monkeypatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    package = {"tensorrt_rtx": "tensorrt-rtx", "cuda.bindings": "cuda-bindings"}[module]
    with pytest.raises(MissingDependencyError, match=f"pip install {package}"):
        open_backend(engine_bundle, "cuda")


def test_engines_of_another_version_or_flavour(engine_bundle: Bundle, gpu: FakeGpu) -> None:
    other = replace(engine_bundle, engines=replace(engine_bundle.engines, version="1.6.0"))
    with pytest.raises(IntegrityError, match=r"1\.6\.0.*compile"):
        open_backend(other, "cuda")
    with pytest.raises(IntegrityError, match=r"1\.6\.0"):  # not a missing thing, so auto must not hide it
        open_backend(other, "auto")
    for flavour in ("os", "tensorrt_rtx.evil"):  # a manifest must not choose what is imported
        with pytest.raises(IntegrityError, match="flavour"):
            open_backend(replace(engine_bundle, engines=EngineOrigin(flavour, VERSION, "")), "cuda")


def test_a_damaged_engine_never_reaches_tensorrt(engine_bundle: Bundle, gpu: FakeGpu, tmp_path: Path) -> None:
    import shutil

    from psamf_edge.bundle import open_bundle

    shutil.copytree(engine_bundle.path, tmp_path / "b.psamf")
    content = bytearray((tmp_path / "b.psamf" / "face.engine").read_bytes())
    content[100] ^= 1
    (tmp_path / "b.psamf" / "face.engine").write_bytes(content)
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_backend(open_bundle(tmp_path / "b.psamf"), "cuda")
    assert gpu.contexts_held == 0
