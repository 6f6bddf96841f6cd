"""The feature files of MMSA and MMSA-FET, aligned_50.pkl and unaligned_50.pkl: read with distrust, and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psamf_edge.compile.data.feature_file import SPLITS, STREAMS, MmsaSet
from psamf_edge.compile.data.pickle_writer import Padded, write_pickle
from psamf_edge.compile.data.plain_pickle import read_pickle
from psamf_edge.compile.data.streams import read_streams
from psamf_edge.compile.files import atomic
from psamf_edge.errors import InputError
from psamf_edge.result import SCORE_LIMIT

NEEDED = ("id", "raw_text", "text_bert", "audio", "vision", "regression_labels")
SEPARATOR = "$_$"  # between video and clip in an id
MAX_TOKEN_ID = 2**20  # the largest vocabulary in use has a quarter of that
CLASSES = ("Negative", "Neutral", "Positive")  # by the sign of the label; classification_labels is the index


@dataclass(frozen=True)
class MmsaFile:
    """What an MMSA file holds: the sets by split, and a report of what was found and mended, fit for JSON."""

    sets: dict[str, MmsaSet]
    report: dict[str, Any]


def read_mmsa(path: Path) -> MmsaFile:
    """Read and check a feature file. The embeddings in its `text` are left alone: BERT runs in our models.

    Raises:
        InputError: the pickle was refused or is damaged (`read_pickle`), or what it holds is not what MMSA reads.
    """
    return _Reader(path).read()


def write_mmsa(path: Path, sets: Mapping[str, MmsaSet]) -> None:
    """Write a feature file that MMSA loads: unaligned, padded at the end, lengths beside.

    MMSA's models cannot take a clip of no length: one without voice or face gets one step of zeros. There is no `text`,
    so of MMSA's models those run that use BERT.

    Raises:
        InputError: a stream has not the same size in all splits.
        OSError: the file cannot be written.
    """
    for stream in STREAMS:
        if len(found := {row.shape[1] for clips in sets.values() for row in getattr(clips, stream)}) > 1:
            raise InputError(f"{stream} has not the same size in all splits: {sorted(found)}; MMSA wants one size.")
    steps = {s: max(1, *(len(row) for clips in sets.values() for row in getattr(clips, s))) for s in STREAMS}
    sizes = {s: next(row.shape[1] for clips in sets.values() for row in getattr(clips, s)) for s in STREAMS}
    content = {}
    for split, clips in sets.items():
        classes = (np.sign(clips.labels).astype(int) + 1).tolist()
        content[split] = {
            "id": clips.ids,
            "raw_text": clips.raw_text,
            "text_bert": np.stack([clips.text_ids, clips.text_mask, np.zeros_like(clips.text_ids)], 1).astype(np.int64),
            **{s: Padded(getattr(clips, s), steps[s], sizes[s]) for s in STREAMS},
            **{f"{s}_lengths": [max(1, len(row)) for row in getattr(clips, s)] for s in STREAMS},
            "annotations": [CLASSES[index] for index in classes],
            "classification_labels": np.array(classes, np.int64),
            "regression_labels": clips.labels,
        }
    with atomic(path) as new, new.open("wb") as file:
        write_pickle(file, content)


class _Reader:
    """One file on its way in. `_where`: the part of it that an error is about."""

    def __init__(self, path: Path) -> None:
        self._where = f"{path}"
        self._content = read_pickle(path)
        self._bytes = path.stat().st_size

    def read(self) -> MmsaFile:
        content = self._content
        if not isinstance(content, dict) or not content or not set(content) <= set(SPLITS):
            found = ", ".join(map(str, content))[:200] if isinstance(content, dict) else type(content).__name__
            raise self._error(f"must hold the splits {', '.join(SPLITS)} or some of them, and holds {found or 'none'}")
        path, parts = self._where, {}
        for split in (s for s in SPLITS if s in content):
            self._where = f"{path}, split {split}"
            parts[split] = self._read_split(content[split])
        self._where = path
        streams: dict[str, list] = {}
        reports: dict[str, dict] = {}
        for stream in STREAMS:
            streams[stream], reports[stream] = self._read_stream(stream, list(parts.values()))
        sets = {
            split: MmsaSet(audio=audio, vision=vision, **part["plain"])
            for (split, part), audio, vision in zip(parts.items(), streams["audio"], streams["vision"], strict=True)
        }
        seen = [clip for clips in sets.values() for clip in clips.ids]
        return MmsaFile(sets, {**reports, "repeated_ids": len(seen) - len(set(seen))})

    def _error(self, what: str) -> InputError:
        return InputError(f"{self._where}: {what}. The file must have the form that MMSA-FET writes.")

    def _read_split(self, split: Any) -> dict[str, Any]:
        if not isinstance(split, dict):
            raise self._error(f"it is no dict but {type(split).__name__}")
        missing = [name for name in NEEDED if name not in split]
        if missing:
            raise self._error(f"it lacks {', '.join(missing)}; it has {', '.join(split)[:200]}")
        labels = self._numbers(split, "regression_labels", 1)
        count = len(labels)
        if not count:
            raise self._error("it has no clips")
        bad = np.flatnonzero(~(np.abs(labels) <= SCORE_LIMIT))  # NaN among them
        if len(bad):
            raise self._error(f"label {bad[0]} is {labels[bad[0]]}; allowed is -{SCORE_LIMIT:g} to {SCORE_LIMIT:g}")
        ids, raw_text = self._strings(split, "id", count), self._strings(split, "raw_text", count)
        text_ids, text_mask = self._text(self._numbers(split, "text_bert", 3, count))
        part: dict[str, Any] = {
            "plain": {
                "ids": ids, "raw_text": raw_text, "text_ids": text_ids, "text_mask": text_mask,
                "labels": labels.astype(np.float32),
            }
        }  # fmt: skip
        for stream in STREAMS:
            part[stream] = self._numbers(split, stream, 3, count)
            part[f"{stream}_lengths"] = self._lengths(split, stream, part[stream])
        return part

    def _read_stream(self, stream: str, parts: list[dict[str, Any]]) -> tuple[list, dict[str, Any]]:
        arrays, lengths = [part[stream] for part in parts], [part[f"{stream}_lengths"] for part in parts]
        if len({array.shape[2] for array in arrays}) > 1:
            raise self._error(f"{stream} has not the same size in all splits: {[a.shape[2] for a in arrays]}")
        if any(length is None for length in lengths):
            if not all(length is None for length in lengths):
                raise self._error(f"{stream}_lengths is in some splits and not in others")
            lengths = None
        clips, report = read_streams(arrays, lengths)
        return clips, asdict(report)

    def _numbers(self, split: dict, name: str, dimensions: int, count: int | None = None) -> np.ndarray:
        """Numbers of that shape: an array or, in one dimension, a list."""
        array = split[name]
        if isinstance(array, list) and all(isinstance(item, (int, float, np.number)) for item in array):
            array = np.array(array)  # no lists in lists: a small pickle can nest them without end
        if not isinstance(array, np.ndarray):
            raise self._error(f"{name} is no array of numbers but {type(array).__name__}")
        if array.dtype.kind not in "biuf":
            raise self._error(f"{name} holds no plain numbers ({array.dtype})")
        if array.ndim != dimensions or (count is not None and len(array) != count) or 0 in array.shape[1:]:
            wanted = f"{dimensions} dimensions" + (f" and {count} clips, as regression_labels has" if count else "")
            raise self._error(f"{name} has the shape {array.shape}; it must have {wanted}")
        return array

    def _strings(self, split: dict, name: str, count: int) -> list[str]:
        value = split[name]
        if isinstance(value, np.ndarray):
            value = value.tolist() if value.ndim == 1 else None
        if not isinstance(value, list) or len(value) != count:
            raise self._error(f"{name} must be {count} strings, as many as regression_labels")
        texts = []
        for item in value:
            if isinstance(item, (bytes, memoryview)):  # of Python 2
                item = bytes(item).decode("utf-8", "replace")
            if not isinstance(item, str):
                raise self._error(f"{name} must hold strings, and item {len(texts)} is {type(item).__name__}")
            texts.append(item)
        if sum(map(len, texts)) > self._bytes:  # one long string, pointed to by many
            raise self._error(f"{name} holds more text than the file has bytes")
        return texts

    def _text(self, text_bert: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, (N, L) each, with the tokens at the start."""
        if text_bert.shape[1] != 3:
            raise self._error(f"text_bert has the shape {text_bert.shape}; it must be (N, 3, L): ids, mask, segments")
        ids, mask = text_bert[:, 0], text_bert[:, 1]
        if not ((mask == 0) | (mask == 1)).all() or not (mask == 1).any(axis=1).all():
            raise self._error("the mask in text_bert must be of 0 and 1, with a token in each clip")
        if not ((ids >= 0) & (ids < MAX_TOKEN_ID) & (ids == np.floor(ids))).all():
            raise self._error("the ids in text_bert are no token ids")
        order = np.argsort(mask == 0, axis=1, kind="stable")  # (N, L): tokens first, in their order
        mask = np.take_along_axis(mask, order, 1).astype(np.float32)
        return np.take_along_axis(ids, order, 1).astype(np.int64) * (mask > 0), mask

    def _lengths(self, split: dict, stream: str, values: np.ndarray) -> np.ndarray | None:
        name = f"{stream}_lengths"
        if name not in split:
            return None
        lengths = self._numbers(split, name, 1, len(values))
        if not ((lengths >= 0) & (lengths <= values.shape[1]) & (lengths == np.floor(lengths))).all():
            raise self._error(f"{name} must be whole numbers from 0 to {values.shape[1]}, the steps of {stream}")
        return lengths.astype(np.int64)
