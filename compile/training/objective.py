"""Where a student begins and what its stages descend: labels alone, or, in a distillation, what teachers know too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from psamf_edge.compile.data.samples import Batch
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.model import Student
from psamf_edge.compile.model.fusion import FusionOutput
from psamf_edge.compile.model.pretrained import ENCODER_FILES, read_config
from psamf_edge.compile.training.epochs import Loss
from psamf_edge.compile.training.loop import score_loss
from psamf_edge.compile.training.made_of import Ingredient
from psamf_edge.compile.training.settings import TrainSettings


@dataclass(frozen=True)
class Scored:
    """One batch after the forward pass, which ran under autocast."""

    output: FusionOutput
    hidden: Tensor  # (B, L, H), the trunk's; frozen in stage 3
    mask: Tensor  # (B, L) of 0 and 1
    rows: np.ndarray  # (B,), of the text set in training: stage 1's is `merge_text`'s
    labels: Tensor  # (B, S), of each subset of modalities
    batch: Batch | None = None  # stage 3's


Objective = Callable[[Scored, TrainSettings], Loss]


def score_objective(scored: Scored, settings: TrainSettings) -> Loss:
    """The score's loss alone, in float32."""
    output = scored.output
    loss = score_loss(output.score.float(), output.log_scale.float(), scored.labels, settings.scale_weight)
    return loss, {"loss": loss.detach()}


class Source(Protocol):
    """What a student is made from."""

    unlabelled: int  # sentences that `taught` gives

    def made_of(self) -> Mapping[str, Ingredient]:
        """What the student's stages depend on beside the data, by the option that gives it."""
        ...

    def check_sizes(self, audio_features: int, face_features: int) -> None:
        """Raise UsageError where data with such steps of voice and face cannot be learnt from."""
        ...

    def student(self, audio_features: int, face_features: int, text_blocks: int) -> Student:
        """The untrained student; text_blocks 0 keeps all."""
        ...

    def taught(self) -> list[TextSet]:
        """Further sentences for stage 1, with labels of the source's own."""
        ...

    def of_words(self, sentences: Sequence[np.ndarray]) -> Objective:
        """Stage 1's objective over the rows of `sentences`, arrays of token ids."""
        ...

    def of_composed(self, sentences: Sequence[np.ndarray]) -> Objective:
        """Stage 3's objective over the rows of `sentences`."""
        ...


@dataclass(frozen=True)
class PretrainedText:
    """A Hugging Face BERT checkpoint, and the labels of the data."""

    bert: Path
    unlabelled = 0

    def made_of(self) -> Mapping[str, Ingredient]:
        read_config(self.bert)  # a folder must not be begun with something that is no encoder
        return {"--bert": Ingredient.of_folder(self.bert, *ENCODER_FILES)}

    def check_sizes(self, audio_features: int, face_features: int) -> None:
        """Any will do: no text block depends on them."""

    def student(self, audio_features: int, face_features: int, text_blocks: int) -> Student:
        return Student.from_bert(self.bert, audio_features, face_features, text_blocks or None)

    def taught(self) -> list[TextSet]:
        return []

    def of_words(self, sentences: Sequence[np.ndarray]) -> Objective:
        return score_objective

    def of_composed(self, sentences: Sequence[np.ndarray]) -> Objective:
        return score_objective
