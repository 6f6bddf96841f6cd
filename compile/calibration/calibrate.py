"""Fit the confidence on the validation split, say by cross-validation what that is worth, and fold it into weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from psamf_edge.compile.calibration.fit import RIDGE, Correction, fit
from psamf_edge.compile.calibration.metrics import rounded, summarise
from psamf_edge.compile.calibration.predictions import Predictions, gather, gather_clips
from psamf_edge.compile.data.faces import FaceSet
from psamf_edge.compile.data.real import RealSamples
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.model import Student
from psamf_edge.compile.training.settings import TrainSettings

FOLDS = 5  # at most: `gather` and `gather_clips` make fewer of few speakers or videos
LOG_SCALE_ROW = 1  # of the output layer: Fusion.forward reads the score from row 0 and the log-scale from row 1


@dataclass(frozen=True)
class Calibration:
    """A correction to fold into a student, and what training.json says of it."""

    correction: Correction
    record: dict


def calibrate(
    student: Student, texts: list[TextSet], speech: SpeechSet, faces: FaceSet, settings: TrainSettings
) -> Calibration:
    """Fit the confidence of a trained student on validation samples; the student is not changed.

    Raises:
        UsageError: too few samples for the folds, or a prediction that is not finite.
    """
    return calibrate_folds(gather(student, texts, speech, faces, settings.batch, FOLDS))


def calibrate_clips(student: Student, clips: RealSamples, settings: TrainSettings) -> Calibration:
    """The same on real samples of the validation split."""
    return calibrate_folds(gather_clips(student, clips, settings.batch, FOLDS))


def calibrate_folds(folds: list[list[Predictions]]) -> Calibration:
    """The correction fitted on all folds, and what one fitted on the others does for each."""
    correction = fit([s for fold in folds for s in fold])
    record = {
        "form": "log_scale + weight @ head + bias, folded into the output layer",
        "ridge": RIDGE,
        "bias": round(correction.bias, 6),
        "weight_norm": round(float(np.linalg.norm(correction.weight)), 6),
        "folds": len(folds),
        "labels of 0": "left out (non0)",
        "sets": cross_validate(folds),
    }
    return Calibration(correction, record)


@torch.no_grad()
def apply(student: Student, calibration: Calibration) -> None:
    """Fold the correction into the student's weights, in place. The score and everything else stay as they are."""
    output, correction = student.fusion.enhanced.output, calibration.correction
    output.weight[LOG_SCALE_ROW] += torch.from_numpy(correction.weight).to(output.weight)
    output.bias[LOG_SCALE_ROW] += correction.bias


def cross_validate(folds: list[list[Predictions]]) -> dict[str, dict]:
    """For each set its size and `summarise` before, and after a correction fitted on the other folds.

    What is held out together, whole videos and whole speakers, stands in folds.py.
    """
    held_out: dict[str, list[tuple[Predictions, np.ndarray]]] = {}  # a small corpus may be missing from a fold
    for k, fold in enumerate(folds):
        correction = fit([s for i, other in enumerate(folds) if i != k for s in other])
        for s in fold:
            held_out.setdefault(s.name, []).append((s, s.confidences(correction(s.heads))))
    return {name: _compare(parts) for name, parts in held_out.items() if any((s.labels != 0).any() for s, _ in parts)}


def _compare(parts: list[tuple[Predictions, np.ndarray]]) -> dict:
    """One set from its parts, each with the corrected confidences (N,)."""
    signed = np.concatenate([s.labels for s, _ in parts]) != 0
    before, after = (np.concatenate(c)[signed] for c in zip(*((s.confidences(), c) for s, c in parts), strict=True))
    right, weights = (np.concatenate([getattr(s, name) for s, _ in parts])[signed] for name in ("right", "weights"))
    return {
        "n": int(signed.sum()),
        "unsigned": int((~signed).sum()),
        "before": rounded(summarise(before, right, weights)),
        "after": rounded(summarise(after, right, weights)),
    }
