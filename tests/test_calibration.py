"""Calibration of the confidence: metrics against scikit-learn, a known error repaired, the fold into the weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
sklearn_metrics = pytest.importorskip("sklearn.metrics")
scipy_stats = pytest.importorskip("scipy.stats")
sklearn_calibration = pytest.importorskip("sklearn.calibration")

from tiny_training import make_corpora, make_student, with_speakers

from psamf_edge.compile.calibration import Calibration, apply, calibrate
from psamf_edge.compile.calibration.calibrate import LOG_SCALE_ROW, cross_validate
from psamf_edge.compile.calibration.fit import Correction, fit, sample_weights
from psamf_edge.compile.calibration.metrics import (
    balanced_weights,
    brier_score,
    calibration_error,
    chance_error,
    log_loss,
    reliability,
    rounded,
    summarise,
    wilson,
)
from psamf_edge.compile.calibration.predictions import Predictions, gather
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.errors import UsageError

HEAD = 8


@pytest.fixture
def draws() -> tuple[np.ndarray, np.ndarray]:
    """4000 confidences, and answers that are right less often than that."""
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1.0, 4000)
    return confidence, (rng.random(4000) < confidence**2).astype(float)


def miscalibrated(rng: np.random.Generator, n: int, factor: float, shift: float, name: str = "made") -> Predictions:
    """Scores whose sign is right as often as a log-scale of `factor` times the stated one plus `shift` would say.

    The stated log-scale is the mean of the first two heads.
    """
    heads = rng.normal(0.0, 1.0, (n, HEAD))
    log_scales, scores = heads[:, :2].mean(axis=1), rng.uniform(-3.0, 3.0, n)
    right = rng.random(n) < 1.0 - 0.5 * np.exp(-np.abs(scores) / np.exp(factor * log_scales + shift))
    labels = np.where(right, scores, -scores)
    return Predictions(name, "text", heads, scores, log_scales, labels, np.ones(n))


@pytest.mark.parametrize(("equal", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_bins_are_scikit_learns(draws, equal, strategy):
    confidence, right = draws
    bins = reliability(confidence, right, equal=equal)
    # scikit-learn bins over [0, 1]: its upper ten of twenty bins are our ten over [0.5, 1]
    accuracy, mean = sklearn_calibration.calibration_curve(
        right, confidence, n_bins=20 if equal == "width" else 10, strategy=strategy
    )
    # sums of the same numbers in another order
    np.testing.assert_allclose([b.accuracy for b in bins], accuracy, atol=1e-12)
    np.testing.assert_allclose([b.confidence for b in bins], mean, atol=1e-12)
    assert sum(b.n for b in bins) == len(right)
    assert sum(b.share for b in bins) == pytest.approx(1.0)
    by_hand = sum(b.n * abs(a - m) for b, a, m in zip(bins, accuracy, mean, strict=True)) / len(right)
    assert calibration_error(bins) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_brier_and_log_loss_are_scikit_learns(draws, weighted):
    confidence, right = draws
    weights = np.random.default_rng(2).uniform(0.5, 2.0, len(right)) if weighted else None
    expected = sklearn_metrics.brier_score_loss(right, confidence, sample_weight=weights)
    assert brier_score(confidence, right, weights) == pytest.approx(expected, abs=1e-12)
    expected = sklearn_metrics.log_loss(right, confidence, sample_weight=weights)
    assert log_loss(confidence, right, weights) == pytest.approx(expected, abs=1e-12)


def test_a_weight_of_two_is_a_sample_told_twice(draws):
    confidence, right = (x[:200] for x in draws)
    weights = np.r_[np.full(100, 2.0), np.ones(100)]
    twice = np.r_[np.arange(100), np.arange(200)]
    told = reliability(confidence[twice], right[twice])
    for a, b in zip(reliability(confidence, right, weights), told, strict=True):
        assert (a.confidence, a.accuracy, a.share) == pytest.approx((b.confidence, b.accuracy, b.share))


@pytest.mark.parametrize(("hits", "n"), [(8, 10), (0, 5), (5, 5), (1, 1), (300, 900)])
def test_wilson_is_scipys(hits, n):
    expected = scipy_stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits / n, n) == pytest.approx(tuple(expected), abs=1e-6)  # our quantile has seven digits


def test_a_true_confidence_has_the_error_that_chance_makes():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.5, 1.0, 300)
    errors = [
        calibration_error(reliability(confidence, (rng.random(300) < confidence).astype(float), equal="mass"))
        for _ in range(200)
    ]
    # both are means over 200 draws, and one draw's error spreads by 0.015: 5 sigma of the difference
    assert chance_error(confidence) == pytest.approx(np.mean(errors), abs=0.0075)


@pytest.mark.parametrize("right", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("value", [0.5, 0.8, 1.0])
def test_edges_of_the_metrics(value, n, right):
    confidence, answers = np.full(n, value), np.full(n, right)
    got = summarise(confidence, answers)
    assert got["ece_mass"] == got["ece_width"] == pytest.approx(abs(value - right))
    assert got["brier"] == pytest.approx((value - right) ** 2)
    assert math.isfinite(got["nll"])
    assert len(reliability(confidence, answers, equal="mass")) == 1, "equal confidences are never parted"


@pytest.mark.parametrize(
    ("confidence", "right", "weights", "sentence"),
    [
        ([0.9, math.nan], [1, 0], None, "1 of 2 confidences are NaN or outside"),
        ([0.4], [1], None, "outside"),
        ([], [], None, "at least 1"),
        ([0.9], [1, 0], None, "one length"),
        ([0.9], [0.5], None, "no sign"),
        ([0.9], [1], [0.0], "positive"),
    ],
)
def test_metrics_refuse(confidence, right, weights, sentence):
    with pytest.raises(UsageError, match=sentence):
        summarise(confidence, right, weights)


def test_unknown_bins():
    with pytest.raises(UsageError, match="equal width or mass"):
        reliability([0.9], [1], equal="size")


def test_balanced_weights():
    labels = np.array([1.8, -2.0, -2.0, -1.6, 0.0])
    weights = balanced_weights(labels)
    assert weights[labels > 0].sum() == pytest.approx(weights[labels < 0].sum()) == pytest.approx(2.0)
    assert weights[-1] == 1.0
    assert (balanced_weights(np.array([1.0, 2.0])) == 1.0).all()


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.7), (0.5, -0.3), (1.6, 0.2)])
def test_a_known_error_is_recovered(factor, shift):
    made = miscalibrated(np.random.default_rng(0), 20_000, factor, shift)
    got = fit([made], ridge=1e-6)
    # over seeds the estimates spread by 0.03 with as many samples; 5 sigma
    expected = np.r_[np.full(2, (factor - 1.0) / 2), np.zeros(HEAD - 2)]
    np.testing.assert_allclose(got.weight, expected, atol=0.15)
    assert got.bias == pytest.approx(shift, abs=0.15)
    fresh = miscalibrated(np.random.default_rng(1), 20_000, factor, shift)
    before, after = (summarise(c, fresh.right) for c in (fresh.confidences(), fresh.confidences(got(fresh.heads))))
    assert after["nll"] < before["nll"]
    assert after["ece_mass"] < 2 * after["ece_chance"] < before["ece_mass"]


def test_a_strong_ridge_leaves_a_temperature():
    made = miscalibrated(np.random.default_rng(0), 5000, 1.0, 0.7)
    got = fit([made], ridge=1e6)
    assert np.abs(got.weight).max() < 1e-4
    assert got.bias == pytest.approx(0.7, abs=0.2)  # 5 sigma, as above with a quarter of the samples


def test_labels_of_zero_do_not_count():
    rng = np.random.default_rng(0)
    made = miscalibrated(rng, 400, 0.5, 0.3)
    some = rng.random(400) < 0.3
    zeroed = replace(made, labels=np.where(some, 0.0, made.labels))
    assert fit([zeroed]).weight == pytest.approx(fit([made.select(~some)]).weight, abs=1e-9)
    with pytest.raises(UsageError, match="every label is 0"):
        fit([replace(made, labels=np.zeros(400))])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("n", [1, 50])
def test_all_right_and_all_wrong_stay_finite(n, sign):
    made = miscalibrated(np.random.default_rng(0), n, 1.0, 0.0)
    made = replace(made, labels=sign * made.scores)
    confidence = made.confidences(fit([made])(made.heads))
    assert ((confidence >= 0.5) & (confidence <= 1.0)).all()
    assert (confidence > 0.95).all() if sign > 0 else (confidence < 0.55).all()


@pytest.mark.parametrize("name", ["heads", "scores", "log_scales"])
def test_nan_is_refused(name):
    made = miscalibrated(np.random.default_rng(0), 5, 1.0, 0.0)
    broken = getattr(made, name).copy()
    broken[2] = math.nan
    with pytest.raises(UsageError, match="1 of 5 predictions are NaN or infinite"):
        fit([replace(made, **{name: broken})])


def test_every_subset_and_in_it_every_set_counts_the_same():
    rng = np.random.default_rng(0)
    words, more, voice = (miscalibrated(rng, n, 1.0, 0.0) for n in (10, 90, 7))
    weights = sample_weights([words, more, replace(voice, subset="audio")])
    assert np.add.reduceat(weights, [0, 10, 100]) == pytest.approx([0.25, 0.25, 0.5])


def test_cross_validation_judges_on_other_folds():
    rng = np.random.default_rng(0)
    folds = [[miscalibrated(rng, 300, 1.0, 1.0)] for _ in range(4)]
    folds[0][0].labels[:10] = 0.0
    table = cross_validate(folds)
    assert (table["made"]["n"], table["made"]["unsigned"]) == (1190, 10)
    assert table["made"]["after"]["ece_mass"] < 0.5 * table["made"]["before"]["ece_mass"]
    assert table["made"]["after"]["accuracy"] == table["made"]["before"]["accuracy"]


def test_a_set_may_be_missing_from_a_fold():
    rng = np.random.default_rng(0)
    folds = [[miscalibrated(rng, 50, 1.0, 1.0, name) for name in names] for names in ("ab", "a", "bc")]
    folds[2][1].labels[:] = 0.0
    table = cross_validate(folds)
    assert {name: values["n"] for name, values in table.items()} == {"a": 100, "b": 100}, "c has no sign at all"


def test_noise_is_not_learnt_from():
    """What the heads say nothing about must not look better by cross-validation."""
    rng = np.random.default_rng(0)
    folds = [[miscalibrated(rng, 300, 1.0, 0.0)] for _ in range(4)]
    table = cross_validate(folds)["made"]
    assert table["after"]["nll"] == pytest.approx(table["before"]["nll"], abs=0.01)  # 9 parameters on 900 samples


def test_a_small_corpus_counts_the_same_in_fewer_folds():
    """Two speakers of one corpus and four of another are in as many folds, and the corpora weigh the same."""
    rng = np.random.default_rng(0)
    small, large = ([miscalibrated(rng, 10, 1.0, 0.0, name)] * n for name, n in (("emodb", 2), ("ravdess", 4)))
    weights = sample_weights([*small, *large])
    assert weights[:20].sum() == pytest.approx(weights[20:].sum()) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def student():
    return make_student(dropout=0.0)


def test_folding_gives_exactly_the_corrected_log_scale(student):
    rng = np.random.default_rng(0)
    text, speech, faces = with_speakers(make_corpora())
    before = gather(student, [text], speech, faces, batch=32, folds=2)
    correction = Correction(rng.normal(0.0, 0.1, 128), 0.3)
    state = {name: value.clone() for name, value in student.state_dict().items()}
    apply(student, Calibration(correction, {}))
    after = gather(student, [text], speech, faces, batch=32, folds=2)
    changed = {n for n, value in student.state_dict().items() if not torch.equal(value, state[n])}
    assert changed == {"fusion.enhanced.output.weight", "fusion.enhanced.output.bias"}
    kept = student.fusion.enhanced.output.weight[1 - LOG_SCALE_ROW]
    assert torch.equal(kept, state["fusion.enhanced.output.weight"][1 - LOG_SCALE_ROW])
    student.load_state_dict(state)
    for old, new in zip(before, after, strict=True):
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a.scores, b.scores)
            # a float32 sum of 128 products of size 0.1
            np.testing.assert_allclose(b.log_scales, a.log_scales + correction(a.heads), atol=2e-6)


def test_calibrate_a_student(student):
    text, speech, faces = with_speakers(make_corpora())
    state = {name: value.clone() for name, value in student.state_dict().items()}
    calibration = calibrate(student, [text], speech, faces, TrainSettings())
    assert all(torch.equal(value, state[n]) for n, value in student.state_dict().items()), "calibrate changes nothing"
    assert set(calibration.record["sets"]) == {
        "text mosi", "audio ravdess", "face fer2013", "composed mosi text+audio", "composed mosi text+face",
        "composed mosi audio+face", "composed mosi all",
    }  # fmt: skip
    for values in calibration.record["sets"].values():
        assert values["after"]["nll"] < values["before"]["nll"] + 0.05  # untrained: much to mend, little to lose
    json.dumps(calibration.record)
    again = calibrate(student, [text], speech, faces, TrainSettings())
    assert again.record == calibration.record, "the same each time"


def test_the_plot_is_small_and_the_same_each_time(draws, tmp_path):
    pytest.importorskip("matplotlib", reason="the plot extra (matplotlib) is not installed")
    from benchmarks.reliability import plot

    confidence, right = draws
    bins = [rounded(asdict(b)) for b in reliability(confidence, right)]
    values = {"n": len(right), **rounded(summarise(confidence, right)), "bins": bins}
    table = dict.fromkeys(["text mosi", "text mosei", "audio ravdess", "audio emodb", "face fer2013"], values)
    for name in ("first.svg", "second.svg"):
        plot(table, tmp_path / name)
    drawn = (tmp_path / "first.svg").read_bytes()
    assert drawn == (tmp_path / "second.svg").read_bytes()
    assert len(drawn) < 60_000  # it is committed anew with every bundle
    root = ElementTree.fromstring(drawn)
    words = "".join(root.itertext())
    assert "words, CMU-MOSI" in words
    assert f"n = {len(right)}, ECE {values['ece_mass']:.3f}" in words, "compacting leaves the text alone"
