"""Real samples: labelled clips with words, voice and face of the same moment, from `psamf-edge extract`'s files.

A clip has one label, and it is the label of every subset of its modalities: what a voice alone would have been given,
nobody was asked. (Composed samples have a label for each; see compose.py.) A stream with no step is a modality that is
missing, as are words where there is nothing but [CLS] and [SEP]. A subset of which a clip has nothing becomes all that
the clip has; a clip that has nothing at all is left out. Nothing is augmented: the features need not be ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from psamf_edge.compile.data.compose import FRAMED
from psamf_edge.compile.data.feature_file import MmsaSet, load_features, read_header
from psamf_edge.compile.data.mmsa import SEPARATOR
from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.samples import Batch, Statistics
from psamf_edge.compile.data.text import TextSet
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES

NAME = "clips"  # in metrics, where composed samples have the name of their sentences' corpus
SPECIAL = 2  # tokens of a sentence without words
LONGEST = 3000  # steps: 30 s of voice, the most that a compiled model reads at once; the rest of a stream is left out


class RealSamples:
    """The clips of one split that have anything.

    Args:
        clips: of the file, or of several (`read_clips`).
        rng: for whoever trains on the samples; they draw nothing themselves.
        max_tokens: of a sentence; what is longer loses its end but [SEP].
        unused: (F,) bool, face features that the model must not see.

    Attributes:
        text: their sentences, without padding, each with its video.
        there: (N, 3) float32 of 0 and 1, which of text, audio and face each clip has.
        left_out: how many clips had nothing.
    """

    def __init__(
        self, clips: MmsaSet, rng: np.random.Generator, max_tokens: int = 512, unused: np.ndarray | None = None
    ) -> None:
        ids = [shorten(row[mask > 0], max_tokens) for row, mask in zip(clips.text_ids, clips.text_mask, strict=True)]
        streams = zip(ids, clips.audio, clips.vision, strict=True)
        there = np.array([(len(i) > SPECIAL, len(a) > 0, len(v) > 0) for i, a, v in streams], np.float32)
        rows = np.flatnonzero(there.any(axis=1))
        self.rng, self.unused, self.left_out = rng, unused, len(clips) - len(rows)
        videos = np.array([clips.ids[i].partition(SEPARATOR)[0] for i in rows])
        self.text = TextSet(NAME, [ids[i] for i in rows], clips.labels[rows], videos)
        self.audio, self.vision = ([stream[i][:LONGEST] for i in rows] for stream in (clips.audio, clips.vision))
        self.there = there[rows]

    def sentences(self) -> TextSet:
        """Of the clips that have words."""
        rows = np.flatnonzero(self.there[:, 0])
        return TextSet(NAME, [self.text.ids[i] for i in rows], self.text.labels[rows], self.text.videos[rows])

    def batch(self, rows: np.ndarray, present: np.ndarray) -> Batch:
        """The clips `rows` (B,) for the subsets present (B, S, 3); the batch's `present` says what became of them."""
        there = self.there[rows][:, None]  # (B, 1, 3)
        given = present * there
        given = np.where(given.any(axis=2, keepdims=True), given, there).astype(np.float32)
        labels = np.repeat(self.text.labels[rows][:, None], present.shape[1], axis=1)  # (B, S)
        return Batch(
            *pad([self.text.ids[i] for i in rows], np.int64),
            *pad([self.audio[i] for i in rows], np.float32),
            *pad([self.vision[i] for i in rows], np.float32),
            given,
            labels,
        )

    def statistics(self) -> tuple[Statistics, Statistics]:
        """Of the voice's features and of the face's, every step counting the same."""
        audio, vision = step_statistics(self.audio), step_statistics(self.vision)
        return audio, replace(vision, unused=self.unused)


def shorten(ids: np.ndarray, longest: int) -> np.ndarray:
    """Token ids (L,) to at most `longest`, the last one kept: it is [SEP]."""
    return ids if len(ids) <= longest else np.append(ids[: longest - 1], ids[-1])


def step_statistics(streams: Sequence[np.ndarray]) -> Statistics:
    """Of streams (T_i, F) with at least one step among them."""
    # in float64 and stream by stream: MOSEI has ten million steps, too many for a sum in float32 or for a copy
    steps = sum(len(stream) for stream in streams)
    mean = sum(stream.sum(axis=0, dtype=np.float64) for stream in streams) / steps  # (F,)
    variance = sum(np.square(stream - mean).sum(axis=0) for stream in streams) / steps
    return Statistics(mean.astype(np.float32), np.sqrt(variance).astype(np.float32))


def read_clips(files: Sequence[Path], split: str) -> MmsaSet:
    """The clips of one split of all files, in their order.

    Raises:
        InputError: a file is no feature file, or damaged.
        UsageError: a file has no such split, or features of other sizes than the first.
    """
    sets = [load_features(path, split) for path in files]
    sizes = [tuple(stream[0].shape[1] for stream in (clips.audio, clips.vision)) for clips in sets]
    for path, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise UsageError(
                f"{path} has {size[0]} voice and {size[1]} face features a step, {files[0]} has {sizes[0][0]} and "
                f"{sizes[0][1]}; files to train on together must have the same."
            )
    longest = max(clips.text_ids.shape[1] for clips in sets)

    def tokens(arrays: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.pad(array, ((0, 0), (0, longest - array.shape[1]))) for array in arrays])  # (N, L)

    return MmsaSet(
        ids=[name for clips in sets for name in clips.ids],
        raw_text=[sentence for clips in sets for sentence in clips.raw_text],
        text_ids=tokens([clips.text_ids for clips in sets]),
        text_mask=tokens([clips.text_mask for clips in sets]),
        audio=[stream for clips in sets for stream in clips.audio],
        vision=[stream for clips in sets for stream in clips.vision],
        labels=np.concatenate([clips.labels for clips in sets]),
    )


def unused_features(files: Sequence[Path]) -> np.ndarray | None:
    """The face features that a model must not see: (F,) bool if they are ours, by their names in the files, or None."""
    ours = [feature.name for feature in VISION_FEATURES]
    found = [read_header(path).get("vision") for path in files]
    return FRAMED if all(isinstance(about, dict) and about.get("features") == ours for about in found) else None


def describe_file(path: Path) -> dict[str, Any]:
    """Name, hash and header of a feature file, fit for JSON."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"file": path.name, "sha256": digest.hexdigest(), "about": read_header(path)}
