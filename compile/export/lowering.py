"""All segments of a model in one precision: from exported graphs to the parts that a plan is made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from psamf_edge.compile.export.onnx_export import Parity, compare
from psamf_edge.compile.export.partition import KernelPart, Part, SegmentPart, has_kernel_nodes, partition
from psamf_edge.compile.export.parts import PartsRunner, kernel_tensors, lower_part
from psamf_edge.compile.export.segments import ExportSegment
from psamf_edge.compile.quantisation.calibration import Calibration

Kept = Mapping[str, Collection[str]]  # of a part's name: the nodes that keep a higher precision; of a kernel's, any


@dataclass(frozen=True)
class Exported:
    """One segment of the student and the float32 parts that it falls into."""

    segment: ExportSegment
    parts: tuple[Part, ...]


def cut(model: onnx.ModelProto, segment: ExportSegment, names: tuple[str, ...] | None) -> Exported:
    """An exported segment, cut at its kernel nodes into segments of these names, or left whole (None)."""
    if names is not None and has_kernel_nodes(model):
        return Exported(segment, tuple(partition(model, names, segment.ranges)))
    return Exported(segment, (SegmentPart(segment.plan, model),))


def lower_parts(
    parts: Sequence[Part],
    precision: str,
    target: str,
    kept: Kept | None = None,
    calibration: Calibration | None = None,
) -> list[Part]:
    """The parts of a whole plan in the given precision. calibration: of a precision that has one.

    A kernel and what it reads and writes have one type, so that a kernel which is kept keeps all of them in float32.
    """
    kept, activations = kept or {}, calibration.activations if calibration is not None else {}
    kernels = [part for part in parts if isinstance(part, KernelPart)]
    exact = any(part.plan.name in kept for part in kernels)
    borders = set() if exact else kernel_tensors(kernels)
    return [
        part
        if exact and isinstance(part, KernelPart)
        else lower_part(part, precision, target, borders, kept.get(part.plan.name, ()), activations.get(part.plan.name))
        for part in parts
    ]


def compare_all(
    exported: Sequence[Exported], lowered: Sequence[Part], calibration: Calibration | None = None
) -> list[Parity]:
    """Each segment, run with its lowered parts, beside PyTorch in float32: on random inputs, or a calibration's."""
    by_name = {part.plan.name: part for part in lowered}
    found = []
    for each in exported:
        runner = PartsRunner([by_name[part.plan.name] for part in each.parts], each.segment.plan.outputs)
        inputs = None if calibration is None else calibration.inputs[each.segment.plan.name]
        found += compare(runner.run, each.segment, inputs)
    return found
