"""What every backend shares: which steps of the plan run, with what, and how their outputs become a score.

A backend only knows how to run one step. `score` walks the plan for one utterance: it checks the features, skips the
segments of missing modalities, hands the fusion one row of presence for each subset it should score, and reads the
score, the confidence and each modality's contribution from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from psamf_edge.bundle import Bundle, PlanKernel, PlanSegment, Shapes
from psamf_edge.errors import InputError, IntegrityError
from psamf_edge.result import MODALITIES, SCORE_LIMIT

Tensors = Mapping[str, np.ndarray]
RunStep = Callable[[PlanSegment | PlanKernel, dict[str, np.ndarray]], Tensors]

LOG_SCALE_LIMIT = 8.0  # e^8 = 3000 times the range of the score: beyond it, nothing changes but exp may overflow


@dataclass(frozen=True)
class Features:
    """One utterance as the model sees it. None: the modality is missing."""

    ids: np.ndarray | None = None  # (L,) int64 token ids, [CLS] first
    audio: np.ndarray | None = None  # (Ta, 63) float32, one row each 10 ms
    face: np.ndarray | None = None  # (Tv, F) float32, ten rows a second

    @property
    def present(self) -> tuple[str, ...]:
        """The modalities that are there, in the order of MODALITIES."""
        values = (self.ids, self.audio, self.face)
        return tuple(name for name, value in zip(MODALITIES, values, strict=True) if value is not None)


@dataclass(frozen=True)
class Outputs:
    """What the model says of one utterance.

    contributions: for each present modality, the score minus the score without it; the score itself if it is alone.
    """

    score: float  # in [-3, 3]
    confidence: float  # in [0.5, 1]
    contributions: dict[str, float]


def score(bundle: Bundle, run_step: RunStep, features: Features) -> Outputs:
    """Run the plan for one utterance.

    Args:
        bundle: the bundle that the backend runs.
        run_step: the backend's own part: a segment or kernel and its named inputs to its named outputs.
        features: at least one modality.

    Raises:
        InputError: nothing is present, a feature has the wrong shape or is not finite, or the score is not.
        IntegrityError: the model gave something else than one score in [-3, 3] for each subset.
    """
    check_features(features, bundle.shapes)
    present = features.present
    tensors = _inputs(features, bundle.shapes)
    for step in bundle.plan:
        if isinstance(step, PlanKernel) or step.when is None or step.when in present:
            tensors.update(run_step(step, {name: tensors[name] for name in step.inputs}))
    shape = tensors["present"].shape[:2]  # (1, S)
    for name in ("score", "log_scale"):
        if tensors[name].shape != shape:
            raise _broken(bundle, f"a {name} of shape {tensors[name].shape} where {shape} is due")
    scores, log_scales = tensors["score"][0].astype(float), tensors["log_scale"][0].astype(float)  # (S,) each
    if not (np.isfinite(scores).all() and np.isfinite(log_scales).all()):
        raise InputError(
            f"The model gave a score that is not a finite number, from {', '.join(present)}: the features are far"
            " outside of what it was trained on."
        )
    if np.abs(scores).max() > SCORE_LIMIT:  # the exported graph clamps
        raise _broken(bundle, f"a score of {scores[np.abs(scores).argmax()]:g}, outside [-3, 3]")
    if len(present) == 1:
        contributions = {present[0]: float(scores[0])}
    else:
        contributions = {name: float(scores[0] - without) for name, without in zip(present, scores[1:], strict=True)}
    return Outputs(float(scores[0]), confidence(float(scores[0]), float(log_scales[0])), contributions)


def _broken(bundle: Bundle, what: str) -> IntegrityError:
    return IntegrityError(f"The model of {bundle.path} gave {what}: make it anew with `psamf-edge compile`.")


def confidence(score: float, log_scale: float) -> float:
    """The probability in [0.5, 1] that the sign of the score is right, if its error is Laplace distributed.

    The error has density exp(-|e| / b) / 2b, so P(e > -|score|) = 1 - exp(-|score| / b) / 2, with b = exp(log_scale).
    """
    scale = math.exp(min(max(log_scale, -LOG_SCALE_LIMIT), LOG_SCALE_LIMIT))
    return 1.0 - 0.5 * math.exp(-abs(score) / scale)


def presence_rows(present: tuple[str, ...]) -> np.ndarray:
    """One row of 0 and 1 over MODALITIES for each subset to score: all that is present, then each time without one.

    A modality that is alone has no row without it: a score of nothing is not defined. Returns (S, 3) float32.
    """
    full = np.array([name in present for name in MODALITIES], dtype=np.float32)  # (3,)
    if len(present) < 2:
        return full[None]
    without = [full * (np.array(MODALITIES) != name) for name in present]  # (3,) each
    return np.stack([full, *without]).astype(np.float32)


def check_features(features: Features, shapes: Shapes) -> None:
    """Raise InputError, naming the modality, unless the features are what the segments take."""
    if not features.present:
        raise InputError("There is nothing to score: no words, no voice and no face were found.")
    if features.ids is not None:
        ids = features.ids
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not 1 <= len(ids) <= shapes.max_tokens:
            raise InputError(
                f"The text has token ids of shape {ids.shape} and type {ids.dtype}; 1 to {shapes.max_tokens} integers"
                " are allowed."
            )
        if ids.min() < 0 or ids.max() >= shapes.vocabulary:
            raise InputError(
                f"The text has token ids from {ids.min()} to {ids.max()}; allowed is 0 to {shapes.vocabulary - 1}."
            )
    if features.audio is not None:
        _check_steps("audio", features.audio, shapes.audio_features, shapes.max_audio_hops, 1000 / shapes.audio_hop_ms)
    if features.face is not None:
        _check_steps("face", features.face, shapes.face_features, shapes.max_face_frames, shapes.face_rate)


def _check_steps(modality: str, steps: np.ndarray, width: int, longest: int, rate: float) -> None:
    if steps.ndim != 2 or steps.shape[1] != width or not 1 <= len(steps) <= longest:
        raise InputError(
            f"The {modality} has features of shape {steps.shape}; 1 to {longest} steps ({longest / rate:g} s) of"
            f" {width} are allowed: split longer utterances."
        )
    if not np.isfinite(steps).all():
        count = len(steps) - int(np.isfinite(steps).all(axis=1).sum())
        raise InputError(f"The {modality} has features that are not finite numbers, in {count} of {len(steps)} steps.")


def _inputs(features: Features, shapes: Shapes) -> dict[str, np.ndarray]:
    """What is fed to the segments; for a missing modality, in place of its segment's outputs, one masked zero step."""

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    tensors = {"present": presence_rows(features.present)[None]}  # (1, S, 3)
    if features.ids is None:
        tensors |= {"hidden": zeros(1, 1, shapes.hidden), "text_mask": zeros(1, 1)}
    else:
        ids = features.ids[None].astype(np.int64, copy=False)  # (1, L)
        tensors |= {"ids": ids, "text_mask": np.ones(ids.shape, np.float32)}
    for name, steps in (("audio", features.audio), ("face", features.face)):
        if steps is None:
            missing = {"steps": zeros(1, 1, shapes.width), "steps_mask": zeros(1, 1), "summary": zeros(1, shapes.width)}
            tensors |= {f"{name}_{part}": value for part, value in missing.items()}
        else:
            tensors |= {
                name: steps[None].astype(np.float32, copy=False),
                f"{name}_mask": np.ones((1, len(steps)), np.float32),
            }
    return tensors


def check_plan(bundle: Bundle) -> None:
    """Raise IntegrityError if a step needs a tensor that nothing before it gives, or nothing gives the score.

    Called once when a backend opens, so that a wrong plan ends with its name and not in the middle of a clip.
    """
    known = {"ids", "text_mask", "audio", "audio_mask", "face", "face_mask", "present"}
    for step in bundle.plan:
        kind = "kernel" if isinstance(step, PlanKernel) else "segment"
        unknown = [name for name in step.inputs if name not in known]
        if unknown:
            raise IntegrityError(
                f"The plan of {bundle.path} is broken: {kind} {step.name} needs {', '.join(unknown)}, which no"
                " earlier step gives."
            )
        known |= set(step.outputs)
    if not {"score", "log_scale"} <= known:
        raise IntegrityError(f"The plan of {bundle.path} is broken: no step gives score and log_scale.")
