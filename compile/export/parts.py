"""The parts that an exported segment falls into: their precision, and how they are run beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import torch

from psamf_edge.backends.sessions import open_session
from psamf_edge.compile.export.cross_modal_op import reference
from psamf_edge.compile.export.partition import KernelPart, Part, SegmentPart
from psamf_edge.compile.export.precision import lower

RunKernel = Callable[[KernelPart, list[np.ndarray]], np.ndarray]  # its inputs in order to its output


def kernel_tensors(parts: Sequence[Part]) -> set[str]:
    """The tensors that kernels read and write. They have one type with the kernel's weights, but for the integers."""
    kernels = [part.plan for part in parts if isinstance(part, KernelPart)]
    return {name for plan in kernels for name in (*plan.inputs, *plan.outputs)}


def lower_part(part: Part, precision: str, target: str, borders: set[str]) -> Part:
    """A part in the given precision. borders: what `kernel_tensors` gave of the whole plan."""
    if isinstance(part, KernelPart):
        return part if precision == "fp32" else replace(part, weights=part.weights.astype(np.float16))
    return replace(part, model=lower(part.model, part.plan.name, precision, target, borders))


def kernel_reference(part: KernelPart, inputs: list[np.ndarray]) -> np.ndarray:
    """The operation in PyTorch, in the type of its weights."""
    *floats, lengths = inputs
    tensors = [torch.from_numpy(x.astype(part.weights.dtype)) for x in floats]
    return reference(*tensors, torch.from_numpy(lengths), torch.from_numpy(part.weights.copy())).numpy()


class PartsRunner:
    """Runs parts in their order: graphs by ONNX Runtime, kernels by what is given.

    outputs: the tensors that `run` returns.
    """

    def __init__(self, parts: Sequence[Part], outputs: Sequence[str], run_kernel: RunKernel = kernel_reference) -> None:
        self._parts, self._outputs, self._run_kernel = parts, outputs, run_kernel
        self._sessions = {
            part.plan.name: open_session(part.model.SerializeToString(), part.plan.file)
            for part in parts
            if isinstance(part, SegmentPart)
        }

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs for these inputs, which are cast to what a graph takes."""
        tensors = dict(inputs)
        for part in self._parts:
            if isinstance(part, KernelPart):
                (output,) = part.plan.outputs
                tensors[output] = self._run_kernel(part, [tensors[name] for name in part.plan.inputs])
            else:
                session = self._sessions[part.plan.name]
                given = {value.name: _cast(tensors[value.name], value) for value in session.get_inputs()}
                made = session.run(list(part.plan.outputs), given)
                tensors.update(zip(part.plan.outputs, made, strict=True))
        return [tensors[name] for name in self._outputs]


def _cast(array: np.ndarray, value: ort.NodeArg) -> np.ndarray:
    return array.astype(np.float16) if value.type == "tensor(float16)" else array
