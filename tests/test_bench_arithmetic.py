"""The arithmetic of the benchmark, against the statistics module, SciPy and hand-made cases."""

import math
import statistics
import time

import numpy as np
import pytest

from psamf_edge.bench import series as module
from psamf_edge.bench.caveats import rank_correlation
from psamf_edge.bench.energy import CounterMeter, PowerMeter, joules_of
from psamf_edge.bench.plot import ticks
from psamf_edge.bench.processes import processes_of, rate, throughput_group
from psamf_edge.bench.series import Ratio, paired_ratio, ranks_outside, ratio, summary, take_turns


@pytest.mark.parametrize("n", [1, 2, 3, 30, 101])
def test_percentiles_are_those_of_the_statistics_module(n):
    samples = np.random.default_rng(n).gamma(3, 10, n).tolist()
    figures = summary(samples)
    half_digit = 0.5 * 10**-module.DIGITS * (1 + 1e-9)  # what the rounding takes
    assert figures["n"] == n
    assert figures["min"] == pytest.approx(min(samples), abs=half_digit)
    assert figures["max"] == pytest.approx(max(samples), abs=half_digit)
    assert figures["mean"] == pytest.approx(statistics.fmean(samples), abs=half_digit)
    assert figures["p50"] == pytest.approx(statistics.median(samples), abs=half_digit)
    if n > 1:
        cuts = statistics.quantiles(samples, n=100, method="inclusive")
        for q in (90, 95, 99):
            assert figures[f"p{q}"] == pytest.approx(cuts[q - 1], abs=half_digit)


def test_rivals_take_turns_there_and_back(monkeypatch):
    clock, order, told = iter(range(1000)), [], []
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    times = take_turns(
        {name: lambda name=name: order.append(name) for name in "abc"},
        rounds=3, warmup=1, on_round=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    assert "".join(order) == "abccbaabccba"
    assert times == {name: [1000.0] * 3 for name in "abc"}
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_ratio_of_two_runs_and_its_interval():
    rng = np.random.default_rng(1)
    slow, fast = rng.normal(30, 1, 200), rng.normal(10, 1, 200)
    found = ratio(slow, fast)
    assert found.value == pytest.approx(np.median(slow) / np.median(fast))
    assert found.low < found.value < found.high
    # the standard error of a median of 200 is 1.2533 / sqrt(200) = 0.089; both together give 0.028 in the ratio
    expected = 3 * 1.2533 / math.sqrt(200) * math.hypot(1 / 30, 1 / 10)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * expected, rel=0.35)  # 200 samples, and one draw of them
    assert ratio(slow, fast) == found  # the same files, the same interval


def test_a_ratio_without_enough_samples_or_over_nothing():
    assert ratio([3.0], [2.0]) == Ratio(1.5)
    assert ratio([3.0] * 5, [2.0] * 9) == Ratio(1.5)
    assert ratio([3.0] * 6, [2.0] * 6) == Ratio(1.5, 1.5, 1.5)
    assert str(Ratio(1.5)) == "1.5"
    assert str(Ratio(1.5, 1.25, 2.0)) == "1.5 [1.25, 2]"
    assert ratio([1.0, 2.0], [0.0, 0.0]) is None
    assert paired_ratio([1.0, 2.0], [1.0]) is None
    assert paired_ratio([1.0, 2.0], [0.0, 1.0]) is None
    assert paired_ratio([3.0] * 5, [2.0] * 5) == Ratio(1.5)
    assert paired_ratio([3.0] * 6, [2.0] * 6) == Ratio(1.5, 1.5, 1.5)


@pytest.mark.parametrize("n", [5, 6, 20, 30, 100, 101])
def test_the_interval_of_a_median_is_as_wide_as_it_has_to_be(n):
    binom = pytest.importorskip("scipy.stats", reason="SciPy comes with scikit-learn").binom
    outside = ranks_outside(n)
    if outside is None:
        assert binom.pmf(0, n, 0.5) > 0.025
    else:
        assert binom.cdf(outside, n, 0.5) <= 0.025 < binom.cdf(outside + 1, n, 0.5)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    a, b = rng.gamma(3, 10, (2, 300, 30))  # three hundred runs of thirty rounds of the same thing
    paired = [paired_ratio(x, y) for x, y in zip(a, b, strict=True)]
    unpaired = [ratio(x, y) for x, y in zip(a, b, strict=True)]
    for found in (paired, unpaired):
        held = np.mean([each.low <= 1 <= each.high for each in found])
        assert held > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)  # three standard errors of a share of 300


def test_pairs_are_not_disturbed_by_what_disturbs_both():
    rng = np.random.default_rng(2)
    weather = rng.gamma(2, 2, 60) + 1  # from one to ten times as slow
    found = paired_ratio(2 * weather, weather)
    assert (found.value, found.low, found.high) == (2, 2, 2)
    unpaired = ratio(2 * weather, rng.permutation(weather))
    assert unpaired.high - unpaired.low > 0.3


@pytest.mark.parametrize("values", [[3, 1, 2], [1, 1, 2, 5, 5, 5, 0], list(range(30)), [4, 4, 4]])
def test_rank_correlation_is_spearmans(values):
    stats = pytest.importorskip("scipy.stats", reason="SciPy comes with scikit-learn")
    if len(set(values)) == 1:
        assert rank_correlation(np.array(values)) == 0
    else:
        expected = stats.spearmanr(values, range(len(values))).statistic
        assert rank_correlation(np.array(values)) == pytest.approx(expected)


def test_the_rate_counts_the_clip_in_progress():
    assert rate(10.0, [[11.0, 12.0, 13.0]]) == pytest.approx(1.0)
    # while the faster one did 4 clips in 4 s, the slower one did 1 and half of the next
    assert rate(0.0, [[1.0, 2.0, 3.0, 4.0], [3.0, 5.0]]) == pytest.approx(5.5 / 4)


@pytest.mark.parametrize("processes", [1, 2, 16])
def test_the_name_of_a_concurrency(processes):
    assert processes_of(throughput_group(processes)) == processes


def test_joules_are_the_area_under_the_watts():
    at = [0.0, 1.0, 1.5, 4.0]
    watts = [2.0, 4.0, 4.0, 0.0]
    between = np.interp((np.arange(40_000) + 0.5) / 10_000, at, watts)  # (40000,) in the middle of each tenth of a ms
    assert joules_of(list(zip(at, watts, strict=True))) == pytest.approx(between.sum() / 10_000)
    assert joules_of([(3.0, 5.0)]) == 0


def test_a_counter_that_starts_again():
    counts = iter([900, 100])
    meter = CounterMeter("x", lambda: next(counts), 0.5, wrap=1000)
    meter.start()
    assert meter.stop() == pytest.approx(100)


def test_a_sensor_is_read_until_it_is_stopped():
    seen = []
    meter = PowerMeter("x", lambda: seen.append(1) or 2.0, interval_s=0.001)
    meter.start()
    while len(seen) < 5:
        time.sleep(0.001)
    joules = meter.stop()
    count = len(seen)
    (first, _), *_, (last, _) = meter._readings
    assert joules == pytest.approx(2.0 * (last - first))
    assert count == len(meter._readings)
    assert not meter._thread.is_alive()


@pytest.mark.parametrize(
    ("largest", "step", "end"), [(10, 2, 10), (11, 5, 15), (0.93, 0.2, 1), (4321, 1000, 5000), (0, 1, 1)]
)
def test_an_axis_has_round_steps_and_holds_everything(largest, step, end):
    assert ticks(largest) == (pytest.approx(step), pytest.approx(end))
