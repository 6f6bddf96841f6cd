"""The backend on a real GPU, with what TensorRT is installed, beside ONNX Runtime on the CPU.

    python -m pytest -m gpu

No GPU has run these yet: where they are skipped, nothing has been shown of one.
"""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import pytest
from gpu_bundles import features, kernel_student

from psamf_edge.backends import Backend, open_backend
from psamf_edge.bundle import Bundle
from psamf_edge.errors import MissingDependencyError, UsageError

pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

TARGETS = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
PRESENCES = ("tav", "v", "ta", "a", "tv", "t", "av")
# TensorRT computes float32 products in TF32, of 10 bits, unless it is told not to; float16 has 10 bits too. Eight bits
# round to steps of half a percent, fp8 to some percent. Twenty layers of each.
TOLERANCES = {"fp32": 2e-2, "fp16": 2e-2, "int8": 1e-1, "int8-weights": 1e-1, "fp8": 1e-1}


@pytest.fixture(scope="module")
def weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from psamf_edge.backends.driver import open_driver

    try:
        open_driver().close()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return kernel_student(tiny_weights, tmp_path_factory.mktemp("kernel_weights"))


@pytest.fixture(scope="module")
def reference(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    from psamf_edge.compile.command import compile_bundle

    return compile_bundle(weights, tmp_path_factory.mktemp("reference") / "cpu.psamf", "cpu", "fp32")


def opened(bundle: Bundle, target: str) -> Backend:
    """On the GPU. TensorRT-RTX need not serve it, and full TensorRT has built the engines for it."""
    try:
        return open_backend(bundle, "cuda")
    except MissingDependencyError as error:
        if target == "rtx":
            raise
        pytest.fail(str(error))


@pytest.mark.trt
@pytest.mark.parametrize("fusion", ["kernel", "graph"])
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("target", TARGETS)
def test_equals_onnxruntime(weights, reference, tmp_path, caplog, target: str, precision: str, fusion: str) -> None:
    from psamf_edge.compile.command import compile_bundle

    try:
        importlib.import_module(TARGETS[target])
        bundle = compile_bundle(weights, tmp_path / "gpu.psamf", target, precision, fusion=fusion)
        backend = opened(bundle, target)
    except (ImportError, MissingDependencyError) as error:
        pytest.skip(f"{TARGETS[target]} is not here, or not for this GPU: {error}")
    except UsageError as error:
        assert precision == "fp8"
        pytest.skip(str(error))
    tolerance = TOLERANCES[precision]
    with backend as ours, open_backend(reference, "cpu") as theirs:
        for seed, (present, sizes) in enumerate(itertools.product(PRESENCES, ((11, 301, 29), (128, 3000, 300)))):
            given = features(reference, present, seed, sizes)
            first, wanted = ours.run(given), theirs.run(given)
            assert first.score == pytest.approx(wanted.score, abs=tolerance), (present, sizes)
            assert ours.run(given) == first  # the graph has the same kernels as the run that it was captured from
    assert not [record for record in caplog.records if "step by step" in record.getMessage()]
