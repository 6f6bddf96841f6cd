"""Every number that a training run depends on. Written beside the weights and into the manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from psamf_edge.errors import UsageError

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a string"}


def within(default: float, low: float = -math.inf, high: float = math.inf) -> Any:
    """A dataclass field with a range, both ends allowed."""
    return field(default=default, metadata={"low": low, "high": high})


def one_of(default: str, *choices: str) -> Any:
    """A dataclass field that is one of a few words."""
    return field(default=default, metadata={"choices": choices})


@dataclass(frozen=True)
class LoopSettings:
    """What every training has, whatever it trains: `run_epochs` and `Trainer` read these.

    A training adds its own by inheritance, each field an int, float, bool or str with a default.

    Raises:
        UsageError: a value is of another type than its field, or out of the field's range.
    """

    seed: int = within(0, 0, 2**32 - 1)
    batch: int = within(32, 1)
    weight_decay: float = within(0.01, 0.0)
    gradient_clip: float = within(1.0, 0.0)  # as published
    warmup: float = within(0.06, 0.0, 1.0)  # share of the steps
    average_decay: float = within(0.998, 0.0, 1.0)  # of the moving average of the weights, which is what is kept
    bfloat16: bool = True  # where a stage runs under autocast
    patience: int = within(0, 0)  # evaluations without a new best before training stops; 0: the last weights are kept
    validate_every: int = within(0, 0)  # steps; 0: each epoch, if there is patience to select by it
    checkpoint_every: int = within(500, 0)  # steps; 0: each epoch only

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if type_name(item) == "float" and type(value) is int:
                object.__setattr__(self, item.name, float(value))
            elif type(value).__name__ != type_name(item) or not _allowed(item.metadata, value):
                raise UsageError(f"The setting {item.name} is {describe(item)}, not {value!r}.")


def type_name(item: Any) -> str:
    """int, float, bool or str; a module that does not postpone its annotations gives classes instead."""
    return item.type if isinstance(item.type, str) else item.type.__name__


def _allowed(limits: Any, value: Any) -> bool:
    if "choices" in limits:
        return value in limits["choices"]
    return "low" not in limits or limits["low"] <= value <= limits["high"]  # also false for NaN


def describe(item: Any) -> str:
    """What a field may hold, as the end of a sentence."""
    if "choices" in item.metadata:
        return "one of " + ", ".join(item.metadata["choices"])
    low, high = item.metadata.get("low", -math.inf), item.metadata.get("high", math.inf)
    lower, upper = (f" from {low:g}" if math.isfinite(low) else ""), (f" to {high:g}" if math.isfinite(high) else "")
    return KINDS[type_name(item)] + lower + upper


@dataclass(frozen=True)
class CorpusSettings(LoopSettings):
    """Which sentences a training reads, and how much of each."""

    corpora: str = one_of("both", "both", "mosi", "mosei")
    # 99.7 % of MOSI and MOSEI sentences are shorter than this; the cost of attention grows with the square
    max_tokens: int = within(96, 3, 512)
    mosi_repeats: int = within(3, 1)  # MOSI is thirteen times smaller than MOSEI, and written differently

    @property
    def corpus_names(self) -> tuple[str, ...]:
        return ("mosi", "mosei") if self.corpora == "both" else (self.corpora,)


@dataclass(frozen=True)
class TrainSettings(CorpusSettings):
    """Settings of the student's three stages.

    The defaults did not make the shipped weights: these had fewer epochs of stage 1, at a lower rate and with more of
    MOSI. compile/weights/default/training.json has all of their settings.
    """

    text_blocks: int = within(0, 0)  # of those the student begins with, evenly spaced; 0: all
    scale_weight: float = within(0.1, 0.0)  # of the loss that fits the error scale behind the confidence

    # stage 1: trunk and last block on text alone
    text_epochs: int = within(3, 1)
    trunk_lr: float = within(5e-5, 0.0)
    new_lr: float = within(5e-4, 0.0)

    # stage 2: the voice encoder on acted speech
    voice_steps: int = within(3000, 1)  # a third of them: AUC .76 for .84 on EMO-DB speakers held out of training
    voice_lr: float = within(2e-3, 0.0)
    voice_dropout: float = within(0.1, 0.0, 1.0)  # before the heads
    # alpha of mixup, 1: any share alike; without it the encoder learns its sixteen actors by heart
    voice_mixup: float = within(1.0, 0.01)

    # stage 3: the rest, on composed samples
    fusion_epochs: int = within(5, 1)
    voice_weight: float = within(2.0, 0.0)  # of the distance of a voice's score from stage 2's valence; labels have 1
    fusion_lr: float = within(7e-4, 0.0)
    sign_weight: float = within(0.1, 0.0)  # of the share of scores with the wrong sign, see `wrong_signs`
