"""The plan with our own kernel in it, whole: ONNX Runtime in the place of the engines, and the shipped text of the
kernel, compiled by g++, in the place of the launch. Buckets, padding, streams, graphs and buffers are the real ones.

What this cannot show is TensorRT's arithmetic, and what a GPU does that the host does not (psamf_edge/kernels/host).
"""

from __future__ import annotations

import ctypes
import io
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import install_cuda_bindings, install_pycuda
from fake_gpu import FakeGpu, Work
from fake_tensorrt import VERSION, FakeTensorRT
from gpu_bundles import PRESENT, features, kernel_student

from psamf_edge.backends import open_backend
from psamf_edge.backends.driver import DriverError
from psamf_edge.bundle import Bundle, EngineOrigin, PlanKernel
from psamf_edge.errors import IntegrityError, MissingDependencyError, UsageError
from psamf_edge.kernels.cross_modal_attention import host
from psamf_edge.kernels.cross_modal_attention.launcher import BLOCK, ENTRIES
from psamf_edge.kernels.cross_modal_attention.packing import ROW, WIDTH

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the kernel's text needs g++ to run on the host")

PRESENCES = ("tav", "v", "ta", "a", "tv", "t", "av")
SIZES = ((11, 301, 29), (15, 290, 25), (1, 1, 1))


@pytest.fixture(scope="module")
def weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained student of the sizes that the kernel is made for."""
    return kernel_student(tiny_weights, tmp_path_factory.mktemp("kernel_weights"))


@pytest.fixture(scope="module")
def bundles(weights: Path, tmp_path_factory: pytest.TempPathFactory):
    """`psamf-edge compile --target rtx`, but the engines are the ONNX files: f(precision) -> Bundle."""
    from psamf_edge.compile.command import compile_bundle
    from psamf_edge.compile.engines import target
    from psamf_edge.compile.export import onnx_export

    directory, exported, made = tmp_path_factory.mktemp("kernel_bundles"), {}, {}
    export = onnx_export.export

    class Builder:
        origin = EngineOrigin("tensorrt_rtx", VERSION, "the stand-in")

        def __init__(self, target: str, options: object) -> None: ...

        def unsupported(self, model: bytes, plugin: str | None) -> list:
            return []

        def build(self, model: bytes, name: str, ranges: dict, plugin: str | None) -> bytes:
            return model

    def export_once(segment):
        return exported.get(segment.plan.name) or exported.setdefault(segment.plan.name, export(segment))

    def build(precision: str) -> Bundle:
        if precision not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(target, "open_builder", Builder)
                patch.setattr(onnx_export, "export", export_once)
                made[precision] = compile_bundle(weights, directory / f"{precision}.psamf", "rtx", precision)
        return made[precision]

    return build


def kernel_work(dtype: np.dtype):
    """What a launch of the kernel does: the host's run of its text over the bytes behind the pointers."""

    def work(arguments: tuple) -> Work:
        query, audio, face, lengths, weights, B, S, Ta, Tv, contexts = arguments
        inputs = [
            (query, (B, S, WIDTH), dtype), (audio, (B, Ta, WIDTH), dtype), (face, (B, Tv, WIDTH), dtype),
            (lengths, (B, S, 2), np.dtype(np.int32)), (weights, (2, ROW), dtype),
        ]  # fmt: skip
        reads = [(address, int(np.prod(shape)) * kind.itemsize) for address, shape, kind in inputs]
        output = (contexts, 2 * B * S * WIDTH * dtype.itemsize)
        assert all(address % 16 == 0 for address, _ in (*reads, output))

        def run() -> None:
            arrays = [
                np.frombuffer(ctypes.string_at(*region), kind).reshape(shape)
                for region, (_, shape, kind) in zip(reads, inputs, strict=True)
            ]
            made = host.run(*arrays)
            assert made.nbytes == output[1]
            ctypes.memmove(contexts, made.ctypes.data, made.nbytes)

        return Work("kernel", reads, [output], run)

    return work


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return stand_in(monkeypatch, install_cuda_bindings)


def stand_in(patch: pytest.MonkeyPatch, install) -> FakeGpu:
    made = FakeGpu()
    made.kernels = {entry: kernel_work(dtype) for dtype, entry in ENTRIES.items()}
    install(made, patch)
    FakeTensorRT(made).install(patch)
    return made


def assert_equals_pytorch(bundle: Bundle, weights: Path, tolerance: float) -> None:
    from test_backends import reference_score

    from psamf_edge.compile.model.student import load_student

    student = load_student(weights)
    with open_backend(bundle, "cuda") as backend:
        for seed, present in enumerate(PRESENCES):
            for sizes in SIZES:  # two in one bucket: step by step, then as a graph
                given = features(bundle, present, seed, sizes)
                score, _ = reference_score(student, given, tuple(PRESENT[letter] for letter in present))
                assert backend.run(given).score == pytest.approx(score, abs=tolerance), (present, sizes)


def test_the_whole_plan_equals_pytorch(bundles, weights: Path, gpu: FakeGpu) -> None:
    # float32 throughout: what differs is the order of sums
    assert_equals_pytorch(bundles("fp32"), weights, 1e-5)
    assert set(gpu.launched) == {"psamf_cross_modal_attention_f32"}
    assert len(gpu.launched) == len(PRESENCES) * len(SIZES)
    assert gpu.is_clean


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_in_half_precision(bundles, weights: Path, gpu: FakeGpu, precision: str) -> None:
    # 11 bits in twenty layers, and 8 bits of weights: this finds a wrong type or tensor, not a lost digit
    assert_equals_pytorch(bundles(precision), weights, {"fp16": 5e-3, "int8": 5e-2}[precision])
    assert set(gpu.launched) == {"psamf_cross_modal_attention_f16"}
    assert gpu.is_clean


def test_on_shared_memory_and_through_pycuda(bundles, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = stand_in(monkeypatch, install_pycuda)
    gpu.integrated = True
    assert_equals_pytorch(bundles("fp32"), weights, 1e-5)
    assert gpu.is_clean


def test_order_and_sizes_of_the_launch(bundles, gpu: FakeGpu) -> None:
    bundle = bundles("fp32")
    assert [step.name for step in bundle.plan][3:] == ["query", "cross_modal_attention", "score"]
    with open_backend(bundle, "cuda") as backend:
        main, side = gpu.streams
        gpu.calls.clear()
        backend.run(features(bundle))
        steps = [call for call in gpu.calls if call[0] in ("execute_async_v3", "cuLaunchKernel", "cuStreamWaitEvent")]
    steps = steps[: len(steps) // 2]  # the second half is the capture
    assert [(call[0], call[9] if call[0] == "cuLaunchKernel" else None) for call in steps[-3:]] == [
        ("execute_async_v3", None),
        ("cuLaunchKernel", main),
        ("execute_async_v3", None),
    ]
    launch = steps[-2]
    assert launch[2:8] == (1, 4, 2, *BLOCK)  # grid: the batch, the subsets, voice and face
    # the voice and the face are waited for by the first step that reads either, the query's
    assert [call[1] for call in steps if call[0] == "cuStreamWaitEvent"] == [side, main]


def changed(bundle: Bundle, path: Path, files: dict[str, bytes], **kernel) -> Bundle:
    """The bundle with other files and another kernel step."""
    from psamf_edge.compile.export.pack import BundleContent, write_bundle

    plan = tuple(replace(step, **kernel) if isinstance(step, PlanKernel) else step for step in bundle.plan)
    content = BundleContent("changed", "rtx", "fp32", plan, bundle.shapes, "x", bundle.engines)
    return write_bundle(path, content, {name: bundle.read(name) for name in bundle.files} | files)


@pytest.mark.parametrize("code", [None, b"PTX that is too new"])
def test_code_is_made_on_the_target_where_the_bundle_has_none(bundles, gpu, monkeypatch, tmp_path, code) -> None:
    from psamf_edge.kernels import compiler

    asked = []

    def nvrtc(source: str, arch: str) -> bytes:
        asked.append((source, arch))
        return b"cubin with psamf_cross_modal_attention_f32"

    monkeypatch.setattr(compiler, "nvrtc", nvrtc)
    name = None if code is None else "kernel.ptx"
    bundle = changed(bundles("fp32"), tmp_path / "b.psamf", {} if code is None else {name: code}, code=name)
    with open_backend(bundle, "cuda") as backend:
        backend.run(features(bundle))
    ((source, arch),) = asked
    assert arch == "sm_87"
    assert "psamf_cross_modal_attention_f32" in source
    assert gpu.is_clean


def test_without_code_and_without_a_compiler(bundles, gpu, monkeypatch, tmp_path) -> None:
    from psamf_edge.kernels import compiler

    def nvrtc(source: str, arch: str) -> bytes:
        raise MissingDependencyError("Compiling a kernel here needs NVRTC.")

    monkeypatch.setattr(compiler, "nvrtc", nvrtc)
    bundle = changed(bundles("fp32"), tmp_path / "b.psamf", {}, code=None)
    with pytest.raises(MissingDependencyError, match="NVRTC"):
        open_backend(bundle, "cuda")
    assert gpu.is_clean


def test_an_nvrtc_newer_than_the_driver(bundles, gpu, monkeypatch, tmp_path) -> None:
    """The extras bring NVRTC 13, of which a driver of CUDA 12 takes neither PTX nor cubins."""
    from psamf_edge.kernels import compiler

    monkeypatch.setattr(compiler, "nvrtc", lambda source, arch: b"cubin that is too new")
    monkeypatch.setattr(compiler, "nvrtc_version", lambda: (13, 5))
    bundle = changed(bundles("fp32"), tmp_path / "b.psamf", {"kernel.ptx": b"PTX that is too new"}, code="kernel.ptx")
    gpu.cuda_version = 12060
    with pytest.raises(MissingDependencyError, match=r"CUDA 12 .*NVRTC 13.*'cuda-bindings<13' nvidia-cuda-nvrtc-cu12`"):
        open_backend(bundle, "cuda")
    gpu.cuda_version = 13000  # then the code is to blame, or the GPU
    with pytest.raises(DriverError, match="UNSUPPORTED_PTX_VERSION"):
        open_backend(bundle, "cuda")
    assert gpu.is_clean


def saved(array: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"junk", b"", saved(np.zeros((2, 7), np.float32)), saved(np.zeros((2, ROW))),
        saved(np.array([{}], dtype=object), allow_pickle=True), saved(np.zeros((2, ROW), np.float32))[:1000],
    ],
    ids=["junk", "empty", "shape", "double", "pickle", "truncated"],
)  # fmt: skip
def test_weights_that_the_kernel_does_not_take(bundles, gpu, tmp_path, content: bytes) -> None:
    bundle = changed(bundles("fp32"), tmp_path / "b.psamf", {"w.npy": content}, weights="w.npy")
    with pytest.raises(IntegrityError, match=r"w\.npy"):
        open_backend(bundle, "cuda")
    assert gpu.is_clean


def test_weights_of_another_type_than_the_engines(bundles, gpu, tmp_path) -> None:
    content = saved(np.zeros((2, ROW), np.float16))
    bundle = changed(bundles("fp32"), tmp_path / "b.psamf", {"w.npy": content}, weights="w.npy")
    with pytest.raises(IntegrityError, match="cross_modal_attention takes query as float16"):
        open_backend(bundle, "cuda")
    assert gpu.is_clean


def test_onnxruntime_refuses_a_kernel(bundles, gpu, monkeypatch) -> None:
    with pytest.raises(UsageError, match="launches the CUDA kernel cross_modal_attention"):
        open_backend(bundles("fp32"), "cpu")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match="tensorrt-rtx"):  # and so auto says what is missing for the GPU
        open_backend(bundles("fp32"), "auto")
