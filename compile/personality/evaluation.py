"""How well traits are told, beside the best constant answer, with intervals over groups of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from psamf_edge.compile.personality.data import TRAITS
from psamf_edge.compile.personality.model import PersonalityEncoder
from psamf_edge.compile.training.device import device_of
from psamf_edge.compile.training.reading import by_length

MEASURES = ("accuracy", "balanced_accuracy", "auc", "above_majority")
RESAMPLES = 1000  # enough for two digits of a 95 % interval
DIGITS = 4


@torch.inference_mode()
def predict(encoder: PersonalityEncoder, windows: Sequence[np.ndarray], batch: int = 32) -> np.ndarray:
    """Probabilities (N, 5) of windows of token ids (L_i,), by an encoder in evaluation mode."""
    probabilities = np.zeros((len(windows), len(TRAITS)), np.float32)
    for rows, ids, mask in by_length(windows, batch, device_of(encoder)):
        probabilities[rows] = torch.sigmoid(encoder(ids, mask)).cpu().numpy()
    return probabilities


def average(probabilities: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The mean of each text's windows: probabilities (W, 5), owners (W,) in 0..N-1, each at least once -> (N, 5)."""
    sums = np.zeros((owners.max() + 1, probabilities.shape[1]))
    np.add.at(sums, owners, probabilities)
    return sums / np.bincount(owners)[:, None]


def cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary cross entropy, in nats, of probabilities and labels (N, 5)."""
    own = np.where(labels > 0.5, probabilities, 1.0 - probabilities)
    return float(-np.log(np.maximum(own, 1e-7)).mean())  # float32 rounds a sure mistake to 0


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve of (N,) scores: the share of pairs in the right order, ties half; NaN without pairs."""
    high, low = scores[positive], np.sort(scores[~positive])
    if not len(high) or not len(low):
        return float("nan")
    below, up_to = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + up_to).mean() / (2 * len(low)))


def measure(probabilities: np.ndarray, labels: np.ndarray, majority: np.ndarray) -> np.ndarray:
    """MEASURES of each trait (5, 4): probabilities and labels (N, 5), majority (5,) the constant to compare with.

    Balanced accuracy and AUC are NaN for a trait of which `labels` has one class only.
    """
    true = labels > 0.5  # (N, 5)
    right = (probabilities > 0.5) == true
    accuracy, constant = right.mean(axis=0), (true == majority).mean(axis=0)  # (5,)
    out = np.full((labels.shape[1], len(MEASURES)), np.nan)
    out[:, 0], out[:, 3] = accuracy, accuracy - constant
    for trait in range(labels.shape[1]):
        positive = true[:, trait]
        if positive.any() and not positive.all():
            out[trait, 1] = (right[positive, trait].mean() + right[~positive, trait].mean()) / 2
            out[trait, 2] = auc(probabilities[:, trait], positive)
    return out


def interval(samples: np.ndarray) -> np.ndarray:
    """Ends (2, ...) of the middle 95 % of samples (R, ...), those that are NaN left out; NaN where all are."""
    defined = ~np.isnan(samples).all(axis=0)
    ends = np.full((2, *defined.shape), np.nan)
    ends[:, defined] = np.nanpercentile(samples[:, defined], [2.5, 97.5], axis=0)
    return ends


def number(value: float) -> float | None:
    """As the tables hold it: JSON has no NaN."""
    return None if np.isnan(value) else round(float(value), DIGITS)


def score(probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> dict[str, dict]:
    """Each measure of each trait and of their mean, with its 95 % interval.

    The majority is the larger class of these very labels, so no constant answer does better. Intervals are percentiles
    over RESAMPLES bootstrap samples of whole groups: texts of one scene, or sentences of one author, are no independent
    draws.

    Args:
        probabilities: (N, 5).
        labels: (N, 5) of 0 and 1.
        groups: (N,) names.

    Returns:
        For each of TRAITS and "mean": majority, of each of MEASURES the value and "..._interval" [low, high], and
        beats_majority: whether all of the interval of above_majority lies above 0. None stands for what is not
        defined: balanced accuracy and AUC of a trait that all texts share, and their mean.
    """
    majority = labels.mean(axis=0) > 0.5  # (5,)
    constant = ((labels > 0.5) == majority).mean(axis=0)  # (5,)
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    samples = np.empty((RESAMPLES, labels.shape[1] + 1, len(MEASURES)))
    for sample in samples:
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        sample[:-1] = measure(probabilities[rows], labels[rows], majority)
        sample[-1] = sample[:-1].mean(axis=0)
    values = measure(probabilities, labels, majority)
    values = np.vstack([values, values.mean(axis=0)])  # (6, 4)
    low, high = interval(samples)
    table = {}
    for row, name in enumerate((*TRAITS, "mean")):
        table[name] = {"majority": number(np.append(constant, constant.mean())[row])}
        for column, key in enumerate(MEASURES):
            table[name][key] = number(values[row, column])
            table[name][f"{key}_interval"] = [number(x[row, column]) for x in (low, high)]
        table[name]["beats_majority"] = bool(low[row, MEASURES.index("above_majority")] > 0)
    return table
