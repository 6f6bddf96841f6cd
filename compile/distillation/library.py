"""What teachers know of sentences, asked once and kept in a file: reading takes a large teacher longest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from psamf_edge.compile.distillation.knowledge import Knowledge, distinct
from psamf_edge.compile.files import save_arrays
from psamf_edge.compile.training.reading import blocks_by_length
from psamf_edge.errors import UsageError

FIELDS = ("scores", "cls", "personality")


class Library:
    """Knowledge by sentence.

    Args:
        ask: gives the knowledge of N different sentences, arrays of token ids.
        cache: an .npz of plain arrays, read and written; None keeps nothing.
        key: of the teachers; a cache with another one was made by others.

    Raises:
        UsageError: the cache was made by other teachers.
    """

    def __init__(self, ask: Callable[[list[np.ndarray]], Knowledge], cache: Path | None = None, key: str = "") -> None:
        self._ask, self._cache, self._key = ask, cache, key
        self._numbers: dict[bytes, int] = {}  # of each sentence, its row in what is known
        self._known: Knowledge | None = None
        if cache is not None and cache.is_file():
            self._load(cache)

    def of(self, sentences: Sequence[np.ndarray]) -> Knowledge:
        """What the teachers know of each sentence (N, ...); one may come several times."""
        different, _ = distinct(sentences)
        new = [ids for ids in different if ids.tobytes() not in self._numbers]
        for rows in blocks_by_length(new) if new else ():  # each is kept before the next is asked
            block = [new[row] for row in rows]
            found, known = self._ask(block), self._known
            for ids in block:
                self._numbers[ids.tobytes()] = len(self._numbers)
            self._known = found if known is None else Knowledge(
                *(np.concatenate([getattr(known, name), getattr(found, name)]) for name in FIELDS)
            )  # fmt: skip
            if self._cache is not None:
                self._save(self._cache)
        return self._known.rows(np.array([self._numbers[ids.tobytes()] for ids in sentences]))

    def _save(self, path: Path) -> None:
        sentences = [np.frombuffer(key, np.int64) for key in self._numbers]
        save_arrays(
            path,
            key=self._key,
            tokens=np.concatenate(sentences),
            lengths=np.array([len(ids) for ids in sentences]),
            **{name: getattr(self._known, name) for name in FIELDS},
        )

    def _load(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != self._key:
                raise UsageError(f"The cache {path} was made by other teachers; delete it and run again.")
            sentences = np.split(stored["tokens"], np.cumsum(stored["lengths"])[:-1])
            self._numbers = {ids.tobytes(): number for number, ids in enumerate(sentences)}
            self._known = Knowledge(*(stored[name] for name in FIELDS))


def key_of_sentences(sentences: Sequence[np.ndarray]) -> str:
    """SHA-256 of arrays of token ids."""
    return hashlib.sha256(b"".join(hashlib.sha256(ids.tobytes()).digest() for ids in sentences)).hexdigest()


def key_of(files: Sequence[Path]) -> str:
    """SHA-256 of the files' hashes, in their order."""
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
