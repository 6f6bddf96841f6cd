"""The gate: a lowered model is held against float32 before anything is built of it, and mended or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from psamf_edge.bundle import Shapes
from psamf_edge.compile.export import ExportError
from psamf_edge.compile.export.lowering import Exported, Kept, compare_all, lower_parts
from psamf_edge.compile.export.onnx_export import Parity, beyond_limits
from psamf_edge.compile.export.partition import KernelPart, Part
from psamf_edge.compile.precisions import EIGHT_BITS
from psamf_edge.compile.quality.bounds import Bounds
from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.compile.quality.comparison import Comparison, compare_scores
from psamf_edge.compile.quality.data_stage import DataRecord
from psamf_edge.compile.quality.plan_scorer import EVALUATED_BY, PlanScorer
from psamf_edge.compile.quality.sensitivity import Blame, Search, guilty
from psamf_edge.compile.quantisation.calibration import Calibration

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Judgement:
    """One lowered model, judged.

    broken: a sentence for each bound that it breaks.
    exact, lowered: the scores of all samples, (N,).
    """

    parts: list[Part]
    parities: list[Parity]
    comparison: Comparison
    broken: list[str]
    exact: np.ndarray
    lowered: np.ndarray


class Gate:
    """Judges lowered forms of one model.

    Args:
        exported: its segments in float32.
        shapes: of the model.
        samples: what to score; at least one.
        precision, target: what it is lowered to; see `precision.lower`.
        bounds: what that may cost.
        calibration: of a precision that has one.

    Raises:
        ExportError: the float32 model gives no finite score for a sample.
    """

    def __init__(
        self,
        exported: Sequence[Exported],
        shapes: Shapes,
        samples: Sequence[Sample],
        precision: str,
        target: str,
        bounds: Bounds,
        calibration: Calibration | None = None,
    ) -> None:
        self._exported, self._shapes, self._samples = exported, shapes, samples
        self._precision, self._target, self._bounds = precision, target, bounds
        self._calibration = calibration
        self._parts = [part for each in exported for part in each.parts]
        self._exact = PlanScorer(self._parts, shapes).scores(samples)
        if not np.isfinite(self._exact).all():
            name = samples[int(np.isfinite(self._exact).argmin())].name
            raise ExportError(f"The float32 model gives no finite score for the sample {name}: train it again.")

    def judge(self, lowered: list[Part], parities: list[Parity] | None = None) -> Judgement:
        """Score with lowered parts. parities: of these parts to PyTorch, if they are known."""
        scores = PlanScorer(lowered, self._shapes).scores(self._samples)
        comparison = compare_scores(self._samples, self._exact, scores)
        broken = comparison.broken(self._bounds)
        if not broken and parities is None:
            parities = compare_all(self._exported, lowered, self._calibration)
        broken += beyond_limits(parities or [], self._precision)
        return Judgement(lowered, parities or [], comparison, broken, self._exact, scores)

    def search(self, tell: Tell) -> list[Blame]:
        """What each segment and layer costs by itself."""
        search = Search(self._parts, self._shapes, self._samples, self._precision, self._target, self._calibration)
        return search.run(tell)

    def mend(self, found: Sequence[Blame], tell: Tell) -> tuple[Judgement, list[Blame]]:
        """Keep layers in a higher precision, the guiltiest first, one more at a time, until every bound holds.

        Returns:
            the last judgement, which is still broken where keeping everything did not help, and what was kept.
        """
        kernels = [part.plan.name for part in self._parts if isinstance(part, KernelPart)]
        kept: dict[str, set[str]] = {}
        layers: list[Blame] = []
        judgement = None
        for blame in guilty(found, kernels):
            kept.setdefault(blame.part, set()).update(blame.nodes)
            layers.append(blame)
            judgement = self.judge(self._lowered(kept))
            tell(f"{len(layers):2} kept, with {blame.part} {blame.layer or ''}: mean {judgement.comparison.gap:.5f}")
            if not judgement.broken:
                break
        return judgement or self.judge(self._lowered(kept)), layers

    def _lowered(self, kept: Kept) -> list[Part]:
        return lower_parts(self._parts, self._precision, self._target, kept, self._calibration)


def kept_precision(precision: str, target: str) -> str:
    """What a layer that is kept computes in."""
    return "fp16" if precision in EIGHT_BITS and target != "cpu" else "fp32"


def gate_record(
    data: DataRecord, bounds: Bounds, comparison: Comparison, kept: Sequence[Blame], higher: str
) -> dict[str, Any]:
    """For the manifest: what was measured, on what, against which bounds, and what was kept for it."""
    record: dict[str, Any] = {
        "data": asdict(data),
        "evaluated_by": EVALUATED_BY,
        "bounds": asdict(bounds),
        "comparison": comparison.document(),
    }
    if kept:
        record["kept"] = {
            "precision": higher,
            "layers": [f"{blame.part} {blame.layer or ''}".strip() for blame in kept],
        }
    return record


def comparison_lines(comparison: Comparison, data: DataRecord) -> list[str]:
    """For the terminal."""
    corr = "none" if comparison.corr is None else f"{comparison.corr:.6f}"
    lines = [
        f"{data.name}, n = {comparison.n}: mean difference {comparison.gap:.5f}, corr {corr}, worst"
        f" {comparison.worst:.5f} ({comparison.worst_sample}){data.left_out}"
    ]
    if comparison.against_labels is not None:
        lines += [f"{side:8} {metrics_line(table)}" for side, table in comparison.against_labels.items()]
    return lines


def metrics_line(table: Mapping[str, float | None]) -> str:
    """Metrics against labels on one line."""
    return "   ".join(f"{name} {'none' if value is None else f'{value:.4f}'}" for name, value in table.items())
