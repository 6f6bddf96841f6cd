"""What a training draws its batches from: composed samples (compose.py) or real ones (real.py), alike from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from psamf_edge.compile.data.text import TextSet


@dataclass(frozen=True)
class Batch:
    """One batch, padded. B samples, S subsets of modalities each."""

    ids: np.ndarray  # (B, L) int64
    text_mask: np.ndarray  # (B, L)
    audio: np.ndarray  # (B, Ta, A)
    audio_mask: np.ndarray  # (B, Ta)
    face: np.ndarray  # (B, Tv, F)
    face_mask: np.ndarray  # (B, Tv)
    present: np.ndarray  # (B, S, 3)
    labels: np.ndarray  # (B, S)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The seven inputs of the model, in its order."""
        return (
            self.ids, self.text_mask, self.audio, self.audio_mask, self.face, self.face_mask, self.present
        )  # fmt: skip


@dataclass(frozen=True)
class Statistics:
    """Of each feature of one stream, over the steps of the training split; float32."""

    mean: np.ndarray  # (F,)
    spread: np.ndarray  # (F,), standard deviations
    unused: np.ndarray | None = None  # (F,) bool: features that the model must not see


class Samples(Protocol):
    """N labelled samples of text, voice and face.

    text: what they say; a sample's row is the row of its sentence.
    rng: the source of all chance. Whoever trains on the samples draws from it as well.
    """

    text: TextSet
    rng: np.random.Generator

    def batch(self, rows: np.ndarray, present: np.ndarray) -> Batch:
        """The samples `rows` (B,), each with the subsets of modalities that present (B, S, 3) asks for."""
        ...

    def statistics(self) -> tuple[Statistics, Statistics]:
        """Of the voice's features and of the face's."""
        ...
