"""The parts that an exported segment falls into: their precision, and how they are run beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import torch

from psamf_edge.backends.sessions import StrictSession
from psamf_edge.compile.export.cross_modal_op import reference
from psamf_edge.compile.export.partition import KernelPart, Part, SegmentPart
from psamf_edge.compile.export.precision import lower
from psamf_edge.compile.export.preflight import load
from psamf_edge.compile.quantisation.ranges import Activation

FLOATS = {"tensor(float16)": np.float16, "tensor(float)": np.float32}  # what crosses a cut may be the other of the two
RunKernel = Callable[[KernelPart, list[np.ndarray]], np.ndarray]  # its inputs in order to its output


def kernel_tensors(parts: Sequence[Part]) -> set[str]:
    """The tensors that kernels read and write. They have one type with the kernel's weights, but for the integers."""
    kernels = [part.plan for part in parts if isinstance(part, KernelPart)]
    return {name for plan in kernels for name in (*plan.inputs, *plan.outputs)}


def lower_part(
    part: Part,
    precision: str,
    target: str,
    borders: Collection[str],
    kept: Collection[str] = (),
    activations: Mapping[str, Activation] | None = None,
) -> Part:
    """A part in the given precision. borders: what `kernel_tensors` gave of the whole plan. Others: see `lower`."""
    if isinstance(part, KernelPart):
        return part if precision == "fp32" else replace(part, weights=part.weights.astype(np.float16))
    return replace(part, model=lower(part.model, part.plan.name, precision, target, borders, kept, activations))


def kernel_reference(part: KernelPart, inputs: list[np.ndarray]) -> np.ndarray:
    """The operation in PyTorch, in the type of its weights."""
    *floats, lengths = inputs
    tensors = [torch.from_numpy(x.astype(part.weights.dtype)) for x in floats]
    return reference(*tensors, torch.from_numpy(lengths), torch.from_numpy(part.weights.copy())).numpy()


class PartsRunner:
    """Runs parts in their order: graphs by ONNX Runtime, kernels by what is given.

    outputs: the tensors that `run` returns.
    kind: of the sessions. ONNX Runtime's own lets NaN and infinity pass.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        outputs: Sequence[str],
        run_kernel: RunKernel = kernel_reference,
        kind: type[ort.InferenceSession] = StrictSession,
    ) -> None:
        self._parts, self._outputs, self._run_kernel = parts, outputs, run_kernel
        self._kind, self._sessions = kind, {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs for these inputs, which are cast to what a graph takes."""
        tensors = dict(inputs)
        for part in self._parts:
            tensors.update(self.step(part, tensors))
        return [tensors[name] for name in self._outputs]

    def step(self, part: Part, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What one of the parts makes of the tensors before it, by name."""
        if isinstance(part, KernelPart):
            (output,) = part.plan.outputs
            return {output: self._run_kernel(part, [tensors[name] for name in part.plan.inputs])}
        session = self._session(part)
        given = {value.name: _cast(tensors[value.name], value) for value in session.get_inputs()}
        return dict(zip(part.plan.outputs, session.run(list(part.plan.outputs), given), strict=True))

    def _session(self, part: SegmentPart) -> ort.InferenceSession:
        """Opened when it is first needed: a search for layers runs only some of the parts."""
        name = part.plan.name
        if name not in self._sessions:
            self._sessions[name] = load(part.model, part.plan.file, self._kind)
        return self._sessions[name]


def _cast(array: np.ndarray, value: ort.NodeArg) -> np.ndarray:
    return array.astype(FLOATS.get(value.type, array.dtype), copy=False)
