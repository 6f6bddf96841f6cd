"""What the analysis of one clip gives: plain data that every writer in `psamf_edge.report` reads."""

from __future__ import annotations

from dataclasses import dataclass, field

SCHEMA = "psamf-edge/1"
MODALITIES = ("text", "audio", "face")  # fixed order: rows of every presence mask follow it
SCORE_LIMIT = 3.0  # scores lie in [-SCORE_LIMIT, SCORE_LIMIT], the range of the CMU-MOSI labels
NEUTRAL_BAND = 0.5  # |score| below this rounds to class 0 of Acc-7


def label_of(score: float) -> str:
    """`negative`, `neutral` or `positive`: the sign of the score once rounded to the classes of Acc-7."""
    if abs(score) < NEUTRAL_BAND:
        return "neutral"
    return "positive" if score > 0 else "negative"


@dataclass(frozen=True)
class ModalityReport:
    """How one modality took part in one score.

    state: "present", "missing" (nothing there, or not asked for) or "degraded" (there, but less than half usable).
    contribution: score with all present modalities minus score without this one, in score units; None when missing.
    """

    state: str
    contribution: float | None = None


@dataclass(frozen=True)
class Segment:
    """One utterance and its score. Times in integer milliseconds from the start of the clip."""

    start_ms: int
    end_ms: int
    text: str | None
    score: float  # in [-3, 3]
    label: str
    # probability in [0.5, 1] that the sign of the score is right, if what is expressed has one; below one half, the
    # other sign would be the better answer. Calibrated on validation data
    confidence: float
    modalities: dict[str, ModalityReport]  # keys: MODALITIES


@dataclass(frozen=True)
class ModelIdentity:
    """Which model scored: enough to repeat the result."""

    name: str
    manifest_sha256: str
    backend: str  # "onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt" or "tensorrt"
    precision: str


@dataclass(frozen=True)
class Result:
    """The analysis of one clip. `score` is the mean of the segments' scores weighted by duration."""

    clip: str
    sha256: str
    duration_ms: int
    model: ModelIdentity
    score: float
    label: str
    segments: list[Segment]
    timing_ms: dict[str, float] = field(default_factory=dict)  # stage name to milliseconds
    warnings: list[str] = field(default_factory=list)
