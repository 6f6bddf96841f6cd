"""Which layers cost the accuracy: one of them lowered at a time, all others in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import onnx

from psamf_edge.bundle import Shapes
from psamf_edge.compile.export.partition import KernelPart, Part, SegmentPart
from psamf_edge.compile.export.parts import lower_part
from psamf_edge.compile.export.precision import lower_products
from psamf_edge.compile.precisions import EIGHT_BITS
from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.compile.quality.comparison import compare_scores
from psamf_edge.compile.quality.plan_scorer import PlanScorer, Trace, downstream
from psamf_edge.compile.quantisation.calibration import Calibration

LEVELS = 3  # of a parameter's path that name a group: blocks.0.attention.query.weight is of blocks.0.attention
LEAST_SHARE = 0.02  # of the worst finite error of a segment: one below it is not searched, none of its layers is guilty


@dataclass(frozen=True)
class Blame:
    """What lowering one segment (layer None) or one group of its nodes alone does to the scores."""

    part: str
    layer: str | None
    nodes: tuple[str, ...]
    gap: float  # mean absolute difference to float32
    worst: float  # the greatest

    def row(self) -> str:
        """For the terminal."""
        where = self.part if self.layer is None else f"  {self.layer}"
        return f"{where:40} {len(self.nodes):4} nodes   mean {self.gap:8.5f}   worst {self.worst:8.5f}"


class Search:
    """Measures layers of a plan.

    Args:
        parts: in float32.
        shapes: of the model.
        samples: to score.
        precision, target: as in `lower`. Eight bits on a GPU are measured without the float16 around them.
        calibration: of a precision that has one.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        shapes: Shapes,
        samples: Sequence[Sample],
        precision: str,
        target: str,
        calibration: Calibration | None = None,
    ) -> None:
        self._parts, self._shapes, self._samples = parts, shapes, samples
        self._precision, self._target = precision, target
        self._activations = calibration.activations if calibration is not None else {}
        self._known: Trace = []
        self._exact = PlanScorer(parts, shapes).scores(samples, trace=self._known)

    def run(self, tell: Callable[[str], None] = lambda line: None) -> list[Blame]:
        """Every segment, and behind each that matters its groups of nodes; both with the guiltiest first."""
        tell(f"{len(self._parts)} segments, each lowered alone, everything else in float32 ...")
        segments = [self._measure(part, None, _node_names(part)) for part in self._parts]
        segments.sort(key=lambda blame: -blame.gap)
        least = LEAST_SHARE * max((blame.gap for blame in segments if math.isfinite(blame.gap)), default=0.0)
        found, by_name = [], {part.plan.name: part for part in self._parts}
        for blame in segments:
            found.append(blame)
            tell(blame.row())
            part = by_name[blame.part]
            if isinstance(part, KernelPart) or not blame.gap > least:
                continue
            layers = groups(part.model)
            tell(f"  {len(layers)} layers of it, one by one ...")
            layers = [self._measure(part, layer, nodes) for layer, nodes in layers.items()]
            for layer in sorted(layers, key=lambda layer: -layer.gap):
                if layer.worst > 0:
                    found.append(layer)
                    tell(layer.row())
        return found

    def _measure(self, part: Part, layer: str | None, nodes: tuple[str, ...]) -> Blame:
        lowered = self._lowered(part, nodes)
        parts = [lowered if each.plan.name == part.plan.name else each for each in self._parts]
        changed = downstream(self._parts, part.plan.name)
        scores = PlanScorer(parts, self._shapes).scores(self._samples, known=self._known, changed=changed)
        compared = compare_scores(self._samples, self._exact, scores)
        return Blame(part.plan.name, layer, nodes, compared.gap, compared.worst)

    def _lowered(self, part: Part, nodes: tuple[str, ...]) -> Part:
        """One part with these nodes lowered and its borders as they are."""
        others = set(_node_names(part)) - set(nodes)
        if isinstance(part, SegmentPart) and self._precision in EIGHT_BITS and self._target != "cpu":
            activations = self._activations.get(part.plan.name)
            return replace(part, model=lower_products(part.model, self._precision, others, activations))
        return lower_part(part, self._precision, self._target, (), others)


def groups(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """The nodes of a graph by layer, in their order.

    A node is of the layer whose parameter it reads. Weights that the exporter folded have lost their names; such a
    node, and one without parameters, is of the layer of the next that has one: a product's bias follows it.
    """
    weights = {weight.name for weight in model.graph.initializer}
    layers: dict[str, list[str]] = {}
    waiting: list[str] = []
    for node in model.graph.node:
        waiting.append(node.name)
        path = next((name for name in node.input if name in weights and "." in name), None)
        if path is not None:
            layers.setdefault(layer_of(path), []).extend(waiting)
            waiting = []
    if waiting:
        last = list(layers)[-1] if layers else "all"
        layers.setdefault(last, []).extend(waiting)
    return {layer: tuple(nodes) for layer, nodes in layers.items()}


def layer_of(parameter: str) -> str:
    """The path of a parameter without its own name, cut to LEVELS."""
    path = parameter.removeprefix("fusion.").split(".")[:-1]
    return ".".join(path[:LEVELS])


def guilty(found: Iterable[Blame], kernels: Iterable[str] = ()) -> list[Blame]:
    """What can be kept in a higher precision, the guiltiest first: layers, and kernels whole."""
    kernels = set(kernels)
    return sorted((b for b in found if b.layer is not None or b.part in kernels), key=lambda b: -b.gap)


def _node_names(part: Part) -> tuple[str, ...]:
    return (part.plan.name,) if isinstance(part, KernelPart) else tuple(node.name for node in part.model.graph.node)
