"""Sentences with sentiment labels, as token ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psamf_edge.compile.data.table import open_table
from psamf_edge.errors import UsageError
from psamf_edge.words.wordpiece import WordPiece

# what MOSI (video_clip) and MOSEI (video_clip_row) write behind a video's name. A name that itself ends like this loses
# that too, which can only join two videos and never part one
_CLIP = re.compile(r"(?<=.)(_\d+)+$")


@dataclass(frozen=True)
class TextSet:
    """Labelled sentences. `ids[i]` is (L_i,) int64 with [CLS] and [SEP]; `labels` is (N,) in [-3, 3].

    `videos` (N,) str names the video that each is of; None where nobody knows.
    """

    name: str
    ids: list[np.ndarray]
    labels: np.ndarray
    videos: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def groups(self) -> np.ndarray:
        """What must not be parted, (N,): the number of each sentence's video, or without videos its own."""
        return np.arange(len(self)) if self.videos is None else np.unique(self.videos, return_inverse=True)[1]


def check_tokens(text: TextSet, vocabulary: int) -> None:
    """Raise UsageError unless a model with `vocabulary` tokens can read the sentences."""
    largest = max(int(ids.max()) for ids in text.ids)
    if largest >= vocabulary:
        raise UsageError(
            f"The sentences of {text.name} have token ids up to {largest}, and the model knows {vocabulary} tokens: "
            "the two have different vocabularies. MMSA's files have that of bert-base-uncased, with 30522 tokens."
        )


def read_text_set(path: Path, split: str, wordpiece: WordPiece, max_tokens: int) -> TextSet:
    """Read the rows of one split from a CSV with columns text, label and split, and maybe id, which names the video.

    Raises:
        UsageError: the file cannot be read, a column is missing, a label is no number in [-3, 3], or the split has no
            row.
    """
    ids, labels, videos = [], [], []
    with open_table(path, ("text", "label", "split")) as reader:
        for row in reader:
            if row["split"] != split:
                continue
            try:
                label = float(row["label"] or "")
            except ValueError:
                label = float("nan")
            if not -3.0 <= label <= 3.0:  # false for NaN
                raise UsageError(
                    f"{path}, line {reader.line_num}: the label {row['label']!r} is no number from -3 to 3."
                )
            ids.append(wordpiece.encode(row["text"] or "", max_tokens=max_tokens).ids)
            labels.append(label)
            videos.append(_CLIP.sub("", row.get("id") or f"line {reader.line_num}"))
    if not ids:
        raise UsageError(f"{path} has no row with split {split!r}.")
    return TextSet(
        path.parent.name, ids, np.asarray(labels, np.float32), np.array(videos) if "id" in reader.fieldnames else None
    )
