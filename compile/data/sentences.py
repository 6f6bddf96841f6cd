"""Sentences without labels, for a teacher to score: more words than any labelled corpus has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psamf_edge.compile.data.table import open_table
from psamf_edge.errors import UsageError
from psamf_edge.words.wordpiece import WordPiece

COLUMN = "text"
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LEAST, _MOST = 3, 40  # words: fewer say little, and a text with no full stop is cut


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
            UsageError: the file cannot be read, is not UTF-8, or lacks the column.
        """
        if self.path.suffix.lower() == ".csv":
            with open_table(self.path, (self.column,)) as reader:
                yield from (row[self.column] or "" for row in reader)
            return
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                yield from file
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read ({error.strerror}); give a text file.") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path} is no UTF-8 text ({error}); save it as such.") from error


def cut(text: str) -> Iterator[str]:
    """The sentences of a text; one with no end is cut after _MOST words, one of fewer than _LEAST is left out."""
    for sentence in SENTENCE_END.split(text):
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
        for place in np.arange(0, len(sentences), step).astype(int)[: most or None]:  # rounded, it may give one more
            ids = wordpiece.encode(sentences[place], max_tokens=max_tokens).ids
            found.setdefault(ids.tobytes(), ids)
        if len(found) == before:
            raise UsageError(f"{file.path} adds no sentence of {_LEAST} words or more; leave it out.")
    return list(found.values())
