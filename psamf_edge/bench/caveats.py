"""Where the figures of a run mislead. Each check gives sentences: what was seen, what it does, how to mend it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from psamf_edge.bench.conditions import Conditions
from psamf_edge.bench.processes import processes_of
from psamf_edge.bench.series import Series
from psamf_edge.bench.stages import CLIP, MODEL, WHOLE

COPIES = "copies"  # name of the series of what goes to the GPU and back

FEWEST_FOR_A_TREND = 8  # rounds; below, a rank correlation says nothing
Z_TREND = 2.33  # one in a hundred steady series would be called drifting
DRIFT = 0.05  # what matters of a drift: medians of the first and the last third
SPREAD = 0.15  # of the middle half of the rounds, over their median
TAIL = 1.5  # p95 over p50
BOUND = 0.5  # a stage that takes more than half is what bounds the whole
COPY_BOUND = 0.3  # copies are pure loss: a third is too much
SCALES = 1.1  # more processes should give at least a tenth more clips a second
OTHERS = 0.2  # cores that others used
PRESSURE = 10.0  # per cent of the time in which something waited for a core
STOLEN = 0.05  # cores, over the elapsed time
CLOCK = 0.7  # of the greatest clock: with all cores at work the fastest clock is some tenths lower anyway


def caveats(
    series: Sequence[Series], machine: Mapping[str, Any], before: Conditions, after: Conditions, elapsed_s: float
) -> list[str]:
    """Everything that is amiss with a run.

    Args:
        series: all of it.
        machine: as `describe_machine` gives it.
        before, after: conditions before the run, and while the processor was still warm.
        elapsed_s: between the two.
    """
    found = by_key(series)
    wholes = [each for each in series if each.group == CLIP and each.name == WHOLE]
    return [
        *(few_samples(len(wholes[0].samples)) if wholes else []),
        *(sentence for whole in wholes for sentence in [*drift(whole), *unsteady(whole)]),
        *(sentence for whole in wholes for sentence in bound(found, whole.model)),
        *queue_bound(series, machine["cores"]),
        *busy(before, after, elapsed_s),
        *clocks(machine, after),
    ]


def by_key(series: Sequence[Series]) -> dict[tuple[str, str, str], Series]:
    """Series by model, group and name."""
    return {each.key: each for each in series}


def few_samples(rounds: int) -> list[str]:
    """A percentile q needs 1 / (1 - q) samples before anything lies above it."""
    hollow = [f"p{q}" for q in (90, 95, 99) if rounds < round(100 / (100 - q))]
    if not hollow:
        return []
    *head, last = hollow
    names = f"{', '.join(head)} and {last} are" if head else f"{last} is"
    return [f"Few samples: of {rounds} rounds, {names} little more than the slowest one; --rounds 100 tells them."]


def drift(series: Series) -> list[str]:
    """Later rounds slower than earlier ones (heat), or faster (not warm yet)."""
    times = np.array(series.samples)  # (n,)
    n = len(times)
    if n < FEWEST_FOR_A_TREND:
        return []
    early, late = np.median(times[: n // 3]), np.median(times[-(n // 3) :])
    change, trend = late / early - 1, rank_correlation(times)
    if abs(trend) * math.sqrt(n - 1) < Z_TREND or abs(change) < DRIFT:
        return []
    if change > 0:
        return [
            f"Drift, {series.model}: the last third of the rounds took {change:.0%} more than the first. Heat or a"
            " power limit slows the machine, or something else uses it: the figures depend on when they were taken."
        ]
    return [
        f"Drift, {series.model}: the last third of the rounds took {-change:.0%} less than the first: raise --warmup."
    ]


def rank_correlation(values: np.ndarray) -> float:
    """Spearman's, of the values with their order. Equal values share the mean of their ranks; 0 if all are equal."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # (n,)
    if len(counts) < 2:
        return 0.0
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def unsteady(series: Series) -> list[str]:
    """A wide middle, or a long tail."""
    q25, q50, q75, q95 = np.percentile(series.samples, [25, 50, 75, 95])
    if len(series.samples) < 4 or q50 <= 0:
        return []
    if (q75 - q25) / q50 > SPREAD:
        return [
            f"High variance, {series.model}: half of the rounds lie between {q25:.0f} and {q75:.0f} ms around a p50 of"
            f" {q50:.0f}. Trust ratios of one run more than its times."
        ]
    if q95 / q50 > TAIL:
        return [f"Long tail, {series.model}: p95 is {q95 / q50:.1f} times p50; something interrupts some rounds."]
    return []


def bound(found: Mapping[tuple[str, str, str], Series], model: str) -> list[str]:
    """One thing takes most of the time, so that the rest hardly matters."""

    def median(name: str) -> float:
        series = found.get((model, CLIP, name))
        return float(np.median(series.samples)) if series else 0.0

    sentences = []
    whole, scoring = median(WHOLE), median(MODEL)
    if whole and median("decode") / whole > BOUND:
        sentences.append(
            f"Decode-bound, {model}: waiting for the decoder is {median('decode') / whole:.0%} of a clip, and a faster"
            " model would hardly be seen in it."
        )
    if scoring and median(COPIES) / scoring > COPY_BOUND:
        sentences.append(
            f"Copy-bound, {model}: copies to the GPU and back, alone, take {median(COPIES) / scoring:.0%} of what the"
            " model takes: for utterances as short as these the CPU may be as fast."
        )
    return sentences


def queue_bound(series: Sequence[Series], cores: int) -> list[str]:
    """More processes than cores, or more that give no more clips a second."""
    levels: dict[str, list[tuple[int, float]]] = {}
    for each in series:
        if each.unit == "clips/s":
            levels.setdefault(each.model, []).append((processes_of(each.group), each.samples[0]))
    sentences = []
    for model, steps in levels.items():
        over = [str(count) for count, _ in steps if count > cores]
        if over:
            sentences.append(
                f"Queue-bound, {model}: {' and '.join(over)} processes wait for {cores} cores; the time of a clip is"
                " then mostly waiting."
            )
        for (few, slow), (many, fast) in pairwise(steps):
            if few < many <= cores and fast < SCALES * slow:
                sentences.append(
                    f"Queue-bound, {model}: {many} processes score {fast / slow:.2f} times the clips of {few}; decoding"
                    " has a process of its own and takes cores too."
                )
    return sentences


def busy(before: Conditions, after: Conditions, elapsed_s: float) -> list[str]:
    """Somebody else uses the processor."""
    sentences = []
    if before.busy_cores is not None and before.busy_cores > OTHERS:
        sentences.append(
            f"Other processes used {before.busy_cores:.1f} cores before the run began: end them and measure again."
        )
    elif before.pressure is not None and before.pressure > PRESSURE:
        sentences.append(
            f"Before the run, something waited for a core {before.pressure:.0f} % of the time: end other programs."
        )
    if before.stolen is not None and after.stolen is not None and elapsed_s > 0:
        share = (after.stolen - before.stolen) / elapsed_s
        if share > STOLEN:
            sentences.append(f"The host of this virtual machine kept {share:.2f} cores for itself during the run.")
    return sentences


def clocks(machine: Mapping[str, Any], after: Conditions) -> list[str]:
    """Clocks below what the hardware can do."""
    sentences = []
    if after.cpu_mhz and after.cpu_max_mhz and after.cpu_mhz < CLOCK * after.cpu_max_mhz:
        sentences.append(
            f"Throttling: right after the rounds the fastest core ran at {after.cpu_mhz:.0f} of {after.cpu_max_mhz:.0f}"
            f" MHz (governor {after.governor or 'unknown'})."
        )
    if after.gpu_throttled:
        sentences.append(f"Throttling: the GPU is held down by its {', '.join(after.gpu_throttled)}.")
    if machine.get("power_mend"):
        sentences.append(f"The power mode is {machine['power_mode']}: {machine['power_mend']}.")
    return sentences
