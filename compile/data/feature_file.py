"""Labelled clips as features, and the safe file that holds them: `load_features(path, split)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psamf_edge.compile.data.arrays import ArrayFile, json_array, write_arrays
from psamf_edge.errors import UsageError

SCHEMA = "psamf-edge-features/1"
SPLITS = ("train", "valid", "test")
STREAMS = ("audio", "vision")


@dataclass(frozen=True)
class MmsaSet:
    """The N clips of one split.

    ids: as MMSA has them, "video$_$clip".
    text_ids, text_mask: (N, L) int64 with [CLS] and [SEP], and float32, 1 where a token is; no token after a gap.
    audio, vision: for each clip (T_i, d) float32, finite; (0, d) where it has none.
    labels: (N,) float32 in [-3, 3].
    """

    ids: list[str]
    raw_text: list[str]
    text_ids: np.ndarray
    text_mask: np.ndarray
    audio: list[np.ndarray]
    vision: list[np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def save_features(path: Path, sets: Mapping[str, MmsaSet], about: Mapping[str, Any]) -> None:
    """Write the sets by split, each with at least one clip, and what is known `about` them, which must be fit for JSON.

    Raises:
        OSError: the file cannot be written.
    """
    header = {"schema": SCHEMA, "splits": {split: len(clips) for split, clips in sets.items()}, **about}
    arrays: dict[str, Any] = {"header": json_array(header)}
    for split, clips in sets.items():
        members = {
            "strings": json_array({"ids": clips.ids, "raw_text": clips.raw_text}),
            "text_ids": clips.text_ids.astype(np.int32),
            "text_mask": clips.text_mask.astype(np.uint8),
            "labels": clips.labels,
        }
        for stream in STREAMS:
            rows = getattr(clips, stream)
            members[stream] = rows
            members[f"{stream}_lengths"] = np.array([len(row) for row in rows], np.int32)
        arrays |= {f"{split}.{name}": array for name, array in members.items()}
    write_arrays(path, arrays)


def read_header(path: Path) -> dict[str, Any]:
    """What the file says of itself: schema, splits with their numbers of clips, and what `save_features` was told.

    Raises:
        InputError: it is not a feature file, or damaged.
    """
    with ArrayFile(path) as file:
        return _header(file)


def load_features(path: Path, split: str) -> MmsaSet:
    """The clips of one split ("train", "valid" or "test") of a file that `psamf-edge extract` wrote.

    Raises:
        InputError: it is not a feature file, or damaged.
        UsageError: the file has no such split.
    """
    with ArrayFile(path) as file:
        splits = _header(file)["splits"]
        if split not in splits:
            raise UsageError(f"{path} has no split {split!r}; it has {', '.join(splits)}.")
        clips = MmsaSet(
            *_strings(file, f"{split}.strings"),
            file.read(f"{split}.text_ids", np.int32, 2).astype(np.int64),
            file.read(f"{split}.text_mask", np.uint8, 2).astype(np.float32),
            *(file.rows(f"{split}.{s}", file.read(f"{split}.{s}_lengths", np.int32, 1)) for s in STREAMS),
            file.read(f"{split}.labels", np.float32, 1),
        )
        counts = {len(getattr(clips, name)) for name in clips.__dataclass_fields__}
        if counts != {splits[split]} or clips.text_ids.shape != clips.text_mask.shape:
            raise file.error(f"has not {splits[split]} of everything in {split}")
        if not all(np.isfinite(row).all() for row in (*clips.audio, *clips.vision, clips.labels)):
            raise file.error(f"holds values in {split} that are not finite")
        return clips


def _header(file: ArrayFile) -> dict[str, Any]:
    header = file.json("header")
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise file.error(f"is not a feature file of schema {SCHEMA}")
    splits = header.get("splits")
    if not isinstance(splits, dict) or not splits or not set(splits) <= set(SPLITS):
        raise file.error(f"has other splits than {', '.join(SPLITS)}, or none")
    if not all(type(count) is int and count > 0 for count in splits.values()):
        raise file.error("has a split without clips")
    return header


def _strings(file: ArrayFile, name: str) -> tuple[list[str], list[str]]:
    """The ids and the texts of a split."""
    strings = file.json(name)
    if not isinstance(strings, dict) or not all(
        isinstance(texts := strings.get(field), list) and all(isinstance(text, str) for text in texts)
        for field in ("ids", "raw_text")
    ):
        raise file.error(f"has no ids and texts in {name}")
    return strings["ids"], strings["raw_text"]
