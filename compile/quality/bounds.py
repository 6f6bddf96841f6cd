"""What a precision may cost, and what it is judged with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from psamf_edge.errors import PsamfError

# Against labels. On CMU-MOSI a good model has a mean error of 0.7 to 0.8 and an Acc-2 of 0.85: a hundredth more or less
# is within what two trainings with different seeds differ by.
MAX_MAE = 0.01
MAX_ACC2 = 0.01
# Between the two models. A model that is 0.8 from the truth loses nothing by a twentieth; and no single utterance may
# cross the neutral band, 0.5 wide on each side of zero (psamf_edge.result), from its middle to a label.
MAX_GAP = 0.05
MAX_WORST = 0.5


class PrecisionError(PsamfError):
    """A lowered model is further from float32 than was allowed: nothing was written."""

    exit_code = 4


@dataclass(frozen=True)
class Bounds:
    """The most that a precision may cost.

    mae, acc2: how much the mean error against labels may rise, and Acc-2 fall (non0; has0 where every label is 0).
    gap, worst: how far scores may be from those in float32, in the mean and at most.
    """

    mae: float = MAX_MAE
    acc2: float = MAX_ACC2
    gap: float = MAX_GAP
    worst: float = MAX_WORST


@dataclass(frozen=True)
class Quality:
    """How a compiled model is judged.

    validate: a CSV file as `psamf-edge evaluate` takes it; None for the check set that ships.
    mixed: keep the guilty layers in a higher precision in place of an error.
    report: where to write an HTML report.
    calibrate: a CSV file like it, of the utterances that the ranges of activations are found on, where a precision has
        any; None for the check set alone.
    """

    bounds: Bounds = Bounds()
    validate: Path | None = None
    mixed: bool = False
    report: Path | None = None
    calibrate: Path | None = None
