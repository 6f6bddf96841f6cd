"""A kernel of the plan as files of the bundle: its packed weights, and its code where a compiler is at hand."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import replace

import numpy as np

from psamf_edge.bundle import PlanKernel
from psamf_edge.compile.export.partition import KernelPart
from psamf_edge.errors import MissingDependencyError
from psamf_edge.kernels.compiler import nvcc, nvrtc

ARCHITECTURE = "compute_75"  # PTX for the oldest GPU that TensorRT 10 knows; the driver makes it native anywhere above


def kernel_files(part: KernelPart) -> tuple[PlanKernel, dict[str, bytes]]:
    """The step of the plan, and its files by name. Where nothing compiles CUDA, there is no code: the target does."""
    buffer = io.BytesIO()
    np.save(buffer, part.weights, allow_pickle=False)
    files = {part.plan.weights: buffer.getvalue()}
    launcher = importlib.import_module(f"psamf_edge.kernels.{part.plan.kernel}.launcher")  # one of bundle.KERNELS
    source = launcher.SOURCE.read_text(encoding="utf-8")
    for compiler in (nvrtc, nvcc):
        with contextlib.suppress(MissingDependencyError):
            name = f"{part.plan.kernel}.ptx"
            return replace(part.plan, code=name), {**files, name: compiler(source, ARCHITECTURE)}
    return part.plan, files
