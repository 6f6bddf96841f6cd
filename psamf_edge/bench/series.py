"""Samples of one quantity, their percentiles and ratios, and the loop in which rivals take turns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50, 90, 95, 99)
FEWEST = 6  # samples that an interval needs: of five, even the whole range holds the median in only 94 % of cases
RESAMPLES = 2000  # of a bootstrap: the ends of a 95 % interval then move by less than its width's hundredth
DIGITS = 4  # decimals that are kept: a tenth of a microsecond where the unit is ms


@dataclass(frozen=True)
class Series:
    """The samples of one quantity, in the order in which they were taken.

    Args:
        model: the label of the bundle.
        group: what was done, as "clip" or "throughput, 2 processes".
        name: what of it, as a stage; "model/text" is a part of "model".
        unit: "ms", "MB", "J", "W" or "clips/s".
        samples: at least one.
    """

    model: str
    group: str
    name: str
    unit: str
    samples: tuple[float, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """What no other series of the same run has."""
        return self.model, self.group, self.name


def summary(samples: Sequence[float]) -> dict[str, float]:
    """n, min, mean, p50, p90, p95, p99 and max. Between two samples a percentile is interpolated linearly."""
    values = np.asarray(samples, float)  # (n,)
    percentiles = np.percentile(values, PERCENTILES)
    named = {f"p{q}": value for q, value in zip(PERCENTILES, percentiles, strict=True)}
    figures = {"min": values.min(), "mean": values.mean(), **named, "max": values.max()}
    return {"n": len(values)} | {name: round(float(value), DIGITS) for name, value in figures.items()}


def take_turns(
    rivals: dict[str, Callable[[], object]],
    rounds: int,
    warmup: int = 3,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of each call of each rival, in rounds of one call each, after `warmup` rounds that do not count.

    A noisy machine so disturbs all rivals alike; every other round goes backwards, so that none always follows the
    same neighbour. `on_round` is called after each round with how many are done, and of how many.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}
    order = list(rivals.items())
    for turn in range(warmup + rounds):
        for name, call in order if turn % 2 == 0 else reversed(order):
            start = time.perf_counter()
            call()
            elapsed = 1e3 * (time.perf_counter() - start)
            if turn >= warmup:
                times[name].append(elapsed)
        if on_round:
            on_round(turn + 1, warmup + rounds)
    return times


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and its 95 % interval; without one where there are too few samples for it."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        value = f"{self.value:.3g}"
        return value if self.low is None else f"{value} [{self.low:.3g}, {self.high:.3g}]"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """The median of `ours` over that of `theirs`, from two runs, with a bootstrap interval; None where theirs is 0."""
    a, b = np.asarray(ours, float), np.asarray(theirs, float)  # (n,), (m,)
    if np.median(b) <= 0:
        return None
    value = float(np.median(a) / np.median(b))
    if min(len(a), len(b)) < FEWEST:
        return Ratio(value)
    rng = np.random.default_rng(0)  # the same files give the same interval
    above = np.median(rng.choice(a, (RESAMPLES, len(a))), axis=1)  # (RESAMPLES,)
    below = np.median(rng.choice(b, (RESAMPLES, len(b))), axis=1)
    low, high = np.percentile(above[below > 0] / below[below > 0], [2.5, 97.5])
    return Ratio(value, float(low), float(high))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """The median over the rounds of ours / theirs, for two that took turns: a slow minute then cancels out."""
    a, b = np.asarray(ours, float), np.asarray(theirs, float)  # (n,) each
    if len(a) != len(b) or b.min() <= 0:
        return None
    ratios = np.sort(a / b)
    value, outside = float(np.median(ratios)), ranks_outside(len(ratios))
    return Ratio(value) if outside is None else Ratio(value, float(ratios[outside]), float(ratios[-1 - outside]))


def ranks_outside(n: int) -> int | None:
    """How many of n sorted samples lie on each side of a 95 % interval of their median, whatever their distribution.

    A sample is below the median as a coin falls. None: even from the least to the greatest is not 95 %.
    """
    outside, tail = -1, 0.0
    while tail + math.comb(n, outside + 1) / 2**n <= 0.025:
        outside += 1
        tail += math.comb(n, outside) / 2**n
    return None if outside < 0 else outside
