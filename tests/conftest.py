"""What several test files share: a tiny student that was never trained, its segments, and a bundle compiled from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_weights import DEFAULT_WEIGHTS as DEFAULT_WEIGHTS
from tiny_weights import VOCABULARY as VOCABULARY
from tiny_weights import write_tiny_weights


@pytest.fixture(autouse=True)
def engine_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of engines for each test, in the place of the user's own."""
    monkeypatch.setenv("PSAMF_EDGE_CACHE", str(tmp_path / "engine-cache"))
    return tmp_path / "engine-cache"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """A stand-in GPU behind cuda-bindings."""
    from fake_cuda import install_cuda_bindings
    from fake_gpu import FakeGpu

    stand_in = FakeGpu()
    install_cuda_bindings(stand_in, monkeypatch)
    return stand_in


@pytest.fixture
def trt(gpu, monkeypatch: pytest.MonkeyPatch):
    """A stand-in TensorRT on that GPU."""
    from fake_tensorrt import FakeTensorRT

    stand_in = FakeTensorRT(gpu)
    stand_in.install(monkeypatch)
    return stand_in


@pytest.fixture
def bare(tmp_path: Path):
    """A small bundle for TensorRT-RTX that has no engines."""
    pytest.importorskip("onnx")
    from small_bundle import small_bundle

    return small_bundle(tmp_path / "bare.psamf")


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The root of the system's files as doctor and bench see them, which a test fills: root(name, text)."""
    from psamf_edge.doctor import machine

    monkeypatch.setattr(machine, "ROOT", tmp_path)

    def write(name: str, text: object) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))

    return write


@dataclass(frozen=True)
class Exported:
    """The tiny student's segments, and each one's float32 ONNX model by name."""

    segments: list
    models: dict


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of weights as `compile` takes it: a small untrained student, and the real face models."""
    pytest.importorskip("torch")
    return write_tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def tiny_export(tiny_weights: Path) -> Exported:
    """The export alone, once for all tests: it is what takes the time (about 12 s on one core)."""
    from psamf_edge.compile.export.onnx_export import export
    from psamf_edge.compile.export.segments import split
    from psamf_edge.compile.model.student import load_student

    segments = split(load_student(tiny_weights))
    return Exported(segments, {segment.plan.name: export(segment) for segment in segments})


@pytest.fixture(scope="session")
def compile_tiny(tiny_weights: Path, tiny_export: Exported, tmp_path_factory: pytest.TempPathFactory):
    """`compile_bundle` on the tiny weights with the export already done: f(target, precision) -> Bundle, cached."""
    from psamf_edge.compile.command import compile_bundle
    from psamf_edge.compile.export import onnx_export

    directory, made = tmp_path_factory.mktemp("bundles"), {}

    def build(target: str = "cpu", precision: str = "fp32"):
        if (target, precision) not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(onnx_export, "export", lambda segment: tiny_export.models[segment.plan.name])
                output = directory / f"{target}-{precision}.psamf"
                made[target, precision] = compile_bundle(tiny_weights, output, target, precision, name="tiny")
        return made[target, precision]

    return build


@pytest.fixture(scope="session")
def kernel_student(tiny_weights: Path, tiny_export: Exported, tmp_path_factory: pytest.TempPathFactory):
    """The tiny student in the kernel's sizes: see kernel_student.py."""
    pytest.importorskip("torch")
    from kernel_student import make_kernel_student

    return make_kernel_student(tiny_weights, tiny_export, tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="session")
def tiny_bundle(compile_tiny):
    """The tiny student as a float32 bundle for the CPU. Shared: never write into it, copy it first."""
    return compile_tiny("cpu", "fp32")
