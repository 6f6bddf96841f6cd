"""What the activations of a float32 plan are on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from psamf_edge.bundle import Shapes
from psamf_edge.compile.export.partition import Part, SegmentPart
from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.compile.quality.plan_scorer import PlanScorer, Trace
from psamf_edge.compile.quantisation.products import QUANTISED_PARTS, Product, products
from psamf_edge.compile.quantisation.ranges import Seen

ROWS = 512  # of each tensor that are kept: some dozens of utterances, and a product with them takes milliseconds
PROGRESS_SAMPLES = 100  # between two lines of progress
SEEN = "seen."  # in front of the copy of a tensor that leaves its graph


def observe(
    parts: Sequence[Part],
    shapes: Shapes,
    samples: Sequence[Sample],
    tell: Callable[[str], None] = lambda line: None,
    least: int | None = None,
    names: Collection[str] = QUANTISED_PARTS,
    rows: int = ROWS,
) -> dict[str, dict[str, Seen]]:
    """Run a plan over samples and look at every tensor that a product is to read in eight bits.

    Args:
        parts: in float32.
        shapes: of the model.
        samples: of the calibration.
        tell: takes lines of progress.
        least: channels that a matrix must read and write to be quantised; None: the trunk's. Smaller ones, at the ends
            of the fusion, are nothing in time and much in accuracy.
        names: of the parts to look into.
        rows: of each tensor to keep.

    Returns:
        Of a part's name: of a tensor's name, what was seen. A tensor that is 0 on all samples is left out.
    """
    least = shapes.hidden if least is None else least
    readers = {part.plan.name: _readers(part, least) for part in parts if part.plan.name in names}
    scorer = PlanScorer([_with_copies(part, readers.get(part.plan.name, {})) for part in parts], shapes)
    gathered = {(part, tensor): _Gathered(rows) for part, tensors in readers.items() for tensor in tensors}
    for number, sample in enumerate(samples, start=1):
        trace: Trace = []
        scorer.scores([sample], trace)
        for (part, tensor), all_rows in gathered.items():
            if part in trace[0]:  # that of a missing modality does not run
                all_rows.add(trace[0][part][f"{SEEN}{tensor}"], held_out=number % 2 == 0)
        if number % PROGRESS_SAMPLES == 0:
            tell(f"    {number} of {len(samples)} samples")
    models = {part.plan.name: part.model for part in parts if isinstance(part, SegmentPart)}
    found: dict[str, dict[str, Seen]] = {}
    for (part, tensor), all_rows in gathered.items():
        if all_rows.peak is not None and all_rows.peak.max() > 0:
            read = readers[part][tensor]
            nodes = tuple(product.node for product in read)
            matrices = _matrices(models[part], read)
            seen = Seen(nodes, matrices, all_rows.peak, *all_rows.halves())
            found.setdefault(part, {})[tensor] = seen
    return found


class _Gathered:
    """The greatest size of each channel, and rows of the samples held out: each has the same chance to be kept
    (Vitter's algorithm R).
    """

    def __init__(self, most: int) -> None:
        self.peak: np.ndarray | None = None
        self._half_peak: np.ndarray | None = None  # of the samples that are not held out
        self._kept: list[np.ndarray] = []
        self._most, self._count, self._rng = most, 0, np.random.default_rng(0)

    def add(self, values: np.ndarray, held_out: bool) -> None:
        """values: of one sample, (..., K)."""
        rows = values.reshape(-1, values.shape[-1])
        peak = np.abs(rows).max(axis=0)
        self.peak = peak if self.peak is None else np.maximum(self.peak, peak)
        if not held_out:
            self._half_peak = peak if self._half_peak is None else np.maximum(self._half_peak, peak)
        for row in rows if held_out else ():
            self._count += 1
            place = len(self._kept) if len(self._kept) < self._most else int(self._rng.integers(self._count))
            if place < self._most:
                self._kept[place : place + 1] = [row.copy()]

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The peaks of one half, (K,), and rows of the other, (R, K); where a half has nothing, the peaks of all."""
        peak = self.peak if self._half_peak is None or not self._half_peak.any() else self._half_peak
        return peak, np.stack(self._kept) if self._kept else self.peak[None]


def _readers(part: Part, least: int) -> dict[str, list[Product]]:
    """Of each tensor, the products that read it in eight bits."""
    readers: dict[str, list[Product]] = {}
    for product in products(part.model) if isinstance(part, SegmentPart) else ():
        if min(product.size) >= least:
            readers.setdefault(product.activation, []).append(product)
    return readers


def _matrices(model: onnx.ModelProto, read: Sequence[Product]) -> tuple[np.ndarray, ...]:
    """The matrix of each product, (K, N)."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    matrices = [numpy_helper.to_array(weights[product.weight]) for product in read]
    return tuple(m if product.axis == 1 else m.T for m, product in zip(matrices, read, strict=True))


def _with_copies(part: Part, tensors: Collection[str]) -> Part:
    """The part with a copy of each tensor as a further output: an input itself could not be one."""
    if not tensors:
        return part
    model, copies = onnx.ModelProto(), [f"{SEEN}{name}" for name in tensors]
    model.CopyFrom(part.model)
    model.graph.node.extend(helper.make_node("Identity", [name], [f"{SEEN}{name}"]) for name in tensors)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in copies)
    return replace(part, plan=replace(part.plan, outputs=(*part.plan.outputs, *copies)), model=model)
