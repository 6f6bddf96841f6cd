"""Sentences without labels, for a teacher to score: more words than any labelled corpus has."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psamf_edge.errors import UsageError
from psamf_edge.words.wordpiece import WordPiece

COLUMN = "text"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LEAST, _MOST = 3, 40  # words: fewer say little, and a text with no full stop is cut
_LONGEST_FIELD = 1 << 20  # characters; csv's own limit is 131 thousand


@dataclass(frozen=True)
class SentenceFile:
    """A text file with one text a line, or a CSV file and the column of its texts."""

    path: Path
    column: str = COLUMN

    @classmethod
    def parse(cls, given: str) -> SentenceFile:
        """From `FILE.txt`, `FILE.csv` (column text) or `FILE.csv:COLUMN`.

        Raises:
            UsageError: there is no such file.
        """
        path, column = given, COLUMN
        if not Path(given).is_file() and ":" in given:
            path, _, column = given.rpartition(":")
        if not Path(path).is_file():
            raise UsageError(f"There is no file {path!r}; give a text file, or a CSV file as FILE.csv:COLUMN.")
        return cls(Path(path), column)

    def texts(self) -> Iterator[str]:
        """Each text as it stands.

        Raises:
            UsageError: the file is not UTF-8, or lacks the column.
        """
        limit = csv.field_size_limit(_LONGEST_FIELD)
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                if self.path.suffix.lower() != ".csv":
                    yield from file
                    return
                reader = csv.DictReader(file)
                if self.column not in (reader.fieldnames or ()):
                    there = ", ".join(reader.fieldnames or ())
                    raise UsageError(f"{self.path} has no column {self.column!r}; its columns are {there}.")
                yield from (row[self.column] or "" for row in reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{self.path} is no UTF-8 text ({error}).") from error
        finally:
            csv.field_size_limit(limit)


def cut(text: str) -> Iterator[str]:
    """The sentences of a text; one with no end is cut after _MOST words, one of fewer than _LEAST is left out."""
    for sentence in _SENTENCE_END.split(text):
        words = sentence.split()
        for start in range(0, len(words), _MOST):
            piece = words[start : start + _MOST]
            if len(piece) >= _LEAST:
                yield " ".join(piece)


def read_sentences(
    files: Sequence[SentenceFile], wordpiece: WordPiece, max_tokens: int, most: int = 0
) -> list[np.ndarray]:
    """The different sentences of all files, in their order: token ids (L_i,) int64 with [CLS] and [SEP].

    Args:
        most: of one file, evenly spread over it; 0 for all.

    Raises:
        UsageError: a file is not readable, or holds no sentence.
    """
    found: dict[bytes, np.ndarray] = {}
    for file in files:
        before = len(found)
        sentences = list(dict.fromkeys(sentence for text in file.texts() for sentence in cut(text)))
        step = max(1.0, len(sentences) / most) if most else 1.0
        for place in np.arange(0, len(sentences), step).astype(int):
            ids = wordpiece.encode(sentences[place], max_tokens=max_tokens).ids
            found.setdefault(ids.tobytes(), ids)
        if len(found) == before:
            raise UsageError(f"{file.path} adds no sentence of {_LEAST} words or more; leave it out.")
    return list(found.values())
