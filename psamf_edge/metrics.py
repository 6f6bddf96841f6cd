"""The metrics of multimodal sentiment analysis on CMU-MOSI and CMU-MOSEI, as MMSA's `metricsTop` defines them.

Accuracy and F1 of the sign come in two forms that differ by some points; a number without its form says nothing:

- has0: every sample; zero counts as positive, p >= 0 against t >= 0.
- non0: samples whose label is not zero; p > 0 against t > 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from psamf_edge.errors import UsageError


def evaluate_scores(predictions: ArrayLike, labels: ArrayLike) -> dict[str, float | int | None]:
    """Every metric of predicted scores against labels.

    Args:
        predictions: (N,) scores, finite. They are not clipped for MAE and Corr.
        labels: (N,) in [-3, 3].

    Returns:
        n, mae, corr, acc7, acc5, acc2_has0, acc2_non0, f1_has0, f1_non0. Shares lie in [0, 1]. None stands for what is
        not defined: everything when N = 0, corr when one side is constant, the non0 forms when every label is 0.

    Raises:
        UsageError: the two are not (N,) and (N,), or hold NaN or infinity.
    """
    p, t = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)  # (N,) each
    if p.ndim != 1 or p.shape != t.shape:
        raise UsageError(f"Predictions {p.shape} and labels {t.shape} must be two vectors of the same length, (N,).")
    for name, values in (("predictions", p), ("labels", t)):
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise UsageError(
                f"{count} of {len(values)} {name} are NaN or infinite; leave those rows out and count them."
            )
    non0 = t != 0
    return {
        "n": len(t),
        "mae": mean_or_none(np.abs(p - t)),
        "corr": pearson(p, t),
        "acc7": accuracy(classes(p, 3), classes(t, 3)),
        "acc5": accuracy(classes(p, 2), classes(t, 2)),
        "acc2_has0": accuracy(p >= 0, t >= 0),
        "acc2_non0": accuracy(p[non0] > 0, t[non0] > 0),
        "f1_has0": weighted_f1(p >= 0, t >= 0),
        "f1_non0": weighted_f1(p[non0] > 0, t[non0] > 0),
    }


def classes(scores: np.ndarray, limit: int) -> np.ndarray:
    """Scores (N,) rounded to the integers -limit..limit, halves to even: Acc-7 has limit 3, Acc-5 has limit 2."""
    return np.round(np.clip(scores, -limit, limit))


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float | None:
    """Share of equal entries; None for no entries."""
    return mean_or_none(predicted == true)


def pearson(p: np.ndarray, t: np.ndarray) -> float | None:
    """Pearson's correlation of two vectors (N,); None where one is constant, for it is 0 / 0 there."""
    if not len(p) or np.ptp(p) == 0 or np.ptp(t) == 0:
        return None
    p, t = _standardised(p), _standardised(t)
    return float(np.clip(p @ t / np.sqrt((p @ p) * (t @ t)), -1.0, 1.0))  # rounding must not leave [-1, 1]


def weighted_f1(predicted: np.ndarray, true: np.ndarray) -> float | None:
    """F1 of each of two classes, weighted by how often each occurs in `true`; bool (N,) each. None for no entries.

    F1 = 2 TP / (2 TP + FP + FN), which is 2 TP / (entries predicted + entries true), and 0 for a class without a hit.
    """
    if not len(true):
        return None
    total = 0.0
    for c in (False, True):
        hits, supports = np.sum((predicted == c) & (true == c)), np.sum(true == c)
        if hits:
            total += supports * 2 * hits / (np.sum(predicted == c) + supports)
    return float(total / len(true))


def mean_or_none(values: np.ndarray) -> float | None:
    """The mean of (N,) values; None for no values."""
    return float(np.mean(values)) if len(values) else None


def _standardised(x: np.ndarray) -> np.ndarray:
    """Centred, and scaled so that squares neither overflow nor vanish; x (N,) is not constant."""
    x = x / np.abs(x).max()
    x = x - x.mean()
    return x / np.abs(x).max()
