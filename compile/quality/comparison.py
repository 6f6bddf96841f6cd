"""Float32 against a lowered precision, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from psamf_edge.compile.quality.bounds import Bounds
from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.metrics import evaluate_scores, pearson

METRICS = ("mae", "corr", "acc2_has0", "acc2_non0")  # of each model against labels


@dataclass(frozen=True)
class Comparison:
    """Two models on the same samples.

    gap: mean absolute difference of their scores; infinite where the lowered model gives a score that is not finite.
    corr: Pearson's correlation of the two; None where one is constant.
    worst, worst_sample: the greatest difference, and where it is.
    against_labels: "fp32" and "lowered" to METRICS, over the samples with a label; None without any.
    """

    n: int
    gap: float
    corr: float | None
    worst: float
    worst_sample: str
    against_labels: Mapping[str, Mapping[str, float | None]] | None

    def document(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def broken(self, bounds: Bounds) -> list[str]:
        """A sentence for each bound that does not hold."""
        found = [
            (self.gap, bounds.gap, "the scores differ from float32 by {0:.4f} in the mean, at most {1:g} is allowed"),
            (self.worst, bounds.worst, f"the score of {self.worst_sample} by {{0:.4f}}, at most {{1:g}} is allowed"),
        ]
        if self.against_labels is not None:
            exact, lowered = self.against_labels["fp32"], self.against_labels["lowered"]
            kind = "acc2_has0" if exact["acc2_non0"] is None else "acc2_non0"
            rise, fall = lowered["mae"] - exact["mae"], exact[kind] - lowered[kind]
            found += [
                (rise, bounds.mae, "the MAE against the labels rises by {0:.4f}, at most {1:g} is allowed"),
                (fall, bounds.acc2, f"{kind} falls by {{0:.4f}}, at most {{1:g}} is allowed"),
            ]
        return [text.format(value, bound) for value, bound, text in found if not value <= bound + ROUNDING]


ROUNDING = 1e-9  # 0.86 - 0.85 is more than 0.01 in binary


def compare_scores(samples: Sequence[Sample], exact: np.ndarray, lowered: np.ndarray) -> Comparison:
    """Two sets of scores, (N,) each. `exact` is finite; NaN in `lowered` counts as infinitely far off."""
    gaps = np.where(np.isfinite(lowered), np.abs(lowered - exact), np.inf)  # (N,)
    finite, worst = bool(np.isfinite(lowered).all()), int(gaps.argmax())
    labelled = np.array([sample.label is not None for sample in samples])
    against_labels = None
    if labelled.any() and finite:
        labels = [sample.label for sample in samples if sample.label is not None]
        tables = {
            "fp32": evaluate_scores(exact[labelled], labels),
            "lowered": evaluate_scores(lowered[labelled], labels),
        }
        against_labels = {side: {name: table[name] for name in METRICS} for side, table in tables.items()}
    return Comparison(
        n=len(samples),
        gap=float(gaps.mean()),
        corr=pearson(exact, lowered) if finite else None,
        worst=float(gaps[worst]),
        worst_sample=samples[worst].name,
        against_labels=against_labels,
    )
