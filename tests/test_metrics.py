"""Metrics against scikit-learn, SciPy and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psamf_edge.errors import UsageError
from psamf_edge.metrics import classes, evaluate_scores, pearson

sklearn_metrics = pytest.importorskip("sklearn.metrics")
scipy_stats = pytest.importorskip("scipy.stats")

KEYS = ["n", "mae", "corr", "acc7", "acc5", "acc2_has0", "acc2_non0", "f1_has0", "f1_non0"]
# MOSI labels are means of five raters, in fifths: so zeros, ties and halves occur as in the data
LABELS = st.integers(-15, 15).map(lambda fifths: fifths / 5)
SCORES = st.one_of(LABELS, st.floats(-4, 4), st.sampled_from([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, -0.0]))
PAIRS = st.lists(st.tuples(SCORES, LABELS), min_size=1, max_size=60)


def sklearn_oracle(p: np.ndarray, t: np.ndarray) -> dict:
    """Section 5 of the model's notes, with other people's functions."""

    def binary(kind, p, t):
        if not len(t):
            return None
        return {
            "acc2": sklearn_metrics.accuracy_score,
            "f1": lambda t, p: sklearn_metrics.f1_score(t, p, average="weighted", zero_division=0),
        }[kind](t, p)

    keep = t != 0
    return {
        "n": len(t),
        "mae": sklearn_metrics.mean_absolute_error(t, p),
        "acc7": sklearn_metrics.accuracy_score(np.round(np.clip(t, -3, 3)), np.round(np.clip(p, -3, 3))),
        "acc5": sklearn_metrics.accuracy_score(np.round(np.clip(t, -2, 2)), np.round(np.clip(p, -2, 2))),
        "acc2_has0": binary("acc2", p >= 0, t >= 0),
        "acc2_non0": binary("acc2", p[keep] > 0, t[keep] > 0),
        "f1_has0": binary("f1", p >= 0, t >= 0),
        "f1_non0": binary("f1", p[keep] > 0, t[keep] > 0),
    }


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_all_but_corr_equal_scikit_learn(pairs):
    p, t = (np.array(column, float) for column in zip(*pairs, strict=True))
    ours = evaluate_scores(p, t)
    assert list(ours) == KEYS
    for key, expected in sklearn_oracle(p, t).items():
        # both sum in float64; the orders of summation differ
        assert ours[key] == (None if expected is None else pytest.approx(expected, abs=1e-12)), key


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 1e150])
def test_corr_equals_scipy(scale):
    rng = np.random.default_rng(3)
    t = rng.uniform(-3, 3, 500)
    p = t + rng.normal(0, 1, 500)
    assert pearson(p * scale, t) == pytest.approx(scipy_stats.pearsonr(p, t).statistic, abs=1e-12)
    assert pearson(-p * scale, t) == -pearson(p * scale, t)


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_corr_is_none_or_within_one(pairs):
    corr = evaluate_scores(*zip(*pairs, strict=True))["corr"]
    assert corr is None or -1.0 <= corr <= 1.0


def test_a_large_offset_leaves_corr_alone():
    t = np.linspace(-3, 3, 50)
    assert pearson(t + 1e6, t) == pytest.approx(1.0, abs=1e-9)  # an offset of 1e6 costs 6 of 16 digits


def test_by_hand():
    got = evaluate_scores([2.0, -1.0, 0.0, 0.4, -3.5], [1.0, 1.0, 0.0, -0.2, -3.0])
    assert got["n"] == 5
    assert got["mae"] == pytest.approx((1 + 2 + 0 + 0.6 + 0.5) / 5)  # -3.5 is not clipped
    assert got["acc7"] == 3 / 5  # 2|1, -1|1, 0|0, 0|-0, -3|-3
    assert got["acc5"] == 3 / 5
    assert got["acc2_has0"] == 3 / 5
    assert got["acc2_non0"] == 2 / 4
    assert got["f1_has0"] == pytest.approx((3 * 2 * 2 / (3 + 3) + 2 * 2 * 1 / (2 + 2)) / 5)
    assert got["f1_non0"] == pytest.approx((2 * 2 * 1 / (2 + 2) + 2 * 2 * 1 / (2 + 2)) / 4)


def test_zero_is_positive_in_has0_and_negative_in_non0():
    got = evaluate_scores([0.0, 0.0], [1.0, -1.0])
    assert (got["acc2_has0"], got["acc2_non0"]) == (0.5, 0.5)
    got = evaluate_scores([0.0], [1.0])
    assert (got["acc2_has0"], got["acc2_non0"]) == (1.0, 0.0)


def test_halves_round_to_even():
    assert classes(np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5]), 3).tolist() == [0, 2, 2, 0, -2, -2, 3]
    assert classes(np.array([1.5, 2.5, -2.5]), 2).tolist() == [2, 2, -2]


def test_nothing_to_evaluate():
    assert evaluate_scores([], []) == {"n": 0} | dict.fromkeys(KEYS[1:])


def test_one_sample_and_constants_have_no_correlation():
    assert evaluate_scores([1.0], [0.5])["corr"] is None
    assert evaluate_scores([0.1, 0.1, 0.1], [0.0, 1.0, 2.0])["corr"] is None
    assert evaluate_scores([0.0, 1.0, 2.0], [0.3, 0.3, 0.3])["corr"] is None


def test_labels_of_zero_only():
    got = evaluate_scores([0.2, -0.2], [0.0, 0.0])
    assert got["acc2_non0"] is None
    assert got["f1_non0"] is None
    assert got["acc2_has0"] == 0.5


def test_values_are_plain_python():
    got = evaluate_scores(np.array([1.0, -1.0], np.float32), np.array([1, -2]))
    assert {key: type(value) for key, value in got.items()} == {"n": int} | dict.fromkeys(KEYS[1:], float)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_is_refused(bad):
    with pytest.raises(UsageError, match="1 of 2 predictions"):
        evaluate_scores([0.0, bad], [0.0, 1.0])
    with pytest.raises(UsageError, match="1 of 2 labels"):
        evaluate_scores([0.0, 1.0], [bad, 0.0])


@pytest.mark.parametrize(("p", "t"), [([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]]), (1.0, 1.0)])
def test_shapes_are_checked(p, t):
    with pytest.raises(UsageError, match="same length"):
        evaluate_scores(p, t)
