"""How well a confidence tells the truth: reliability bins, calibration error, Brier score, log loss.

A confidence that a sign is right lies in [0.5, 1]: below one half, the opposite sign would be the better answer. Every
function takes confidence (N,), right (N,) of 0 and 1, and weights (N,) that say how much each sample counts (all alike
if None), and raises UsageError for what is none of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from psamf_edge.errors import UsageError

BINS = 10  # of width 0.05; more would leave a dozen samples to each bin of the smaller sets
Z95 = 1.959964  # the normal quantile of a 95 % interval
DRAWS = 200  # of the chance error; its mean is then known to a tenth of its spread
SUREST = 1.0 - 2.0**-53  # the greatest double below 1: a wrong answer given with certainty costs 37 nats, not infinity


@dataclass(frozen=True)
class Bin:
    """Samples of like confidence. low and high bound the confidence; share is the bin's part of the total weight."""

    low: float
    high: float
    n: int
    share: float
    confidence: float  # mean
    accuracy: float
    accuracy_low: float  # 95 % Wilson interval
    accuracy_high: float


def reliability(
    confidence: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None, equal: str = "width", bins: int = BINS
) -> list[Bin]:
    """The bins that hold anything, by rising confidence.

    Args:
        equal: "width" for bins of one width over [0.5, 1], "mass" for bins of as many samples each. Equal confidences
            are never parted, so there may be fewer bins.
    """
    c, r, w = _check(confidence, right, weights)
    edges, of = _bins(c, equal, bins)
    result = []
    for i in np.unique(of):
        chosen = of == i
        inside = w[chosen]
        accuracy = float(np.average(r[chosen], weights=inside))
        # Kish's effective size: samples that weigh unequally tell as much as this many that weigh the same
        interval = wilson(accuracy, float(inside.sum() ** 2 / np.square(inside).sum()))
        mean = float(np.average(c[chosen], weights=inside))
        share = float(inside.sum() / w.sum())
        result.append(
            Bin(float(edges[i]), float(edges[i + 1]), int(chosen.sum()), share, mean, accuracy, *interval)
        )  # fmt: skip
    return result


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share seen in n trials (Wilson 1927), which stays inside [0, 1] for few of them."""
    spread = Z95 * math.sqrt(share * (1.0 - share) / n + Z95**2 / (4 * n**2))
    middle, scale = share + Z95**2 / (2 * n), 1.0 + Z95**2 / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean gap of confidence and accuracy over the bins."""
    return sum(b.share * abs(b.accuracy - b.confidence) for b in bins)


def chance_error(confidence: ArrayLike, weights: ArrayLike | None = None) -> float:
    """What the calibration error (equal mass) would be on average if the confidence were right: not 0 in small sets."""
    c, _, w = _check(confidence, np.zeros(np.shape(confidence)), weights)
    _, of = _bins(c, "mass", BINS)
    members = (of[:, None] == np.arange(BINS)) * w[:, None]  # (N, bins)
    answers = np.random.default_rng(0).random((DRAWS, len(c))) < c
    return float(np.abs((answers - c) @ members).sum(axis=1).mean() / w.sum())


def brier_score(confidence: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean squared difference of confidence and right; a coin that says 0.5 scores 0.25."""
    c, r, w = _check(confidence, right, weights)
    return float(np.average(np.square(c - r), weights=w))


def log_loss(confidence: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean negative log likelihood, in nats; a coin that says 0.5 scores 0.693."""
    c, r, w = _check(confidence, right, weights)
    c = np.minimum(c, SUREST)
    return float(np.average(-np.log(np.where(r > 0, c, 1.0 - c)), weights=w))


def summarise(confidence: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None) -> dict[str, float]:
    """Mean confidence, accuracy, both calibration errors, what chance makes of the first, Brier score and log loss."""
    c, r, w = _check(confidence, right, weights)
    return {
        "confidence": float(np.average(c, weights=w)),
        "accuracy": float(np.average(r, weights=w)),
        "ece_mass": calibration_error(reliability(c, r, w, "mass")),
        "ece_chance": chance_error(c, w),
        "ece_width": calibration_error(reliability(c, r, w, "width")),
        "brier": brier_score(c, r, w),
        "nll": log_loss(c, r, w),
    }


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Four digits: the sets are too small for more to mean anything."""
    return {name: round(value, 4) for name, value in values.items()}


def _bins(c: np.ndarray, equal: str, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The edges (bins + 1,), and in which bin each confidence lies, (N,)."""
    if equal == "width":
        edges = np.linspace(0.5, 1.0, bins + 1)
    elif equal == "mass":
        edges = np.quantile(c, np.linspace(0.0, 1.0, bins + 1))
    else:
        raise UsageError(f"Bins can be of equal width or mass, not {equal!r}.")
    return edges, np.searchsorted(edges[1:-1], c)


def balanced_weights(labels: ArrayLike) -> np.ndarray:
    """Weights (N,) that give both signs half of what all signed samples count together; labels of 0 count 1.

    For acted voices and faces: that a corpus names four negative emotions and one positive says nothing about users.
    """
    t = np.asarray(labels)
    weights = np.ones(len(t))
    sides = [side for side in (t > 0, t < 0) if side.any()]
    for side in sides:
        weights[side] = np.sum(t != 0) / (len(sides) * side.sum())
    return weights


def _check(
    confidence: ArrayLike, right: ArrayLike, weights: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    c, r = np.asarray(confidence, np.float64), np.asarray(right, np.float64)  # (N,) each
    w = np.ones(c.shape) if weights is None else np.asarray(weights, np.float64)
    if c.ndim != 1 or not len(c) or not c.shape == r.shape == w.shape:
        raise UsageError(
            f"Confidences {c.shape}, right {r.shape} and weights {w.shape} must be vectors of one length, at least 1."
        )
    outside = int((~((c >= 0.5) & (c <= 1.0))).sum())  # NaN is outside too
    if outside:
        raise UsageError(f"{outside} of {len(c)} confidences are NaN or outside [0.5, 1]; leave those samples out.")
    if not np.isin(r, (0.0, 1.0)).all():
        raise UsageError("`right` must be 0 or 1 for each sample; leave out those whose label has no sign.")
    if not (np.isfinite(w).all() and (w > 0).all()):
        raise UsageError("Weights must be positive and finite; leave out samples that shall not count.")
    return c, r, w
