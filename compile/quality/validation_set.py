"""Labelled utterances of a CSV file as samples, by the same code that scores clips."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from psamf_edge.analyzer import Analyzer
from psamf_edge.bundle import Shapes
from psamf_edge.cli.evaluate import score_row
from psamf_edge.cli.group import describe, exit_code
from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.dataset import Row, read_rows
from psamf_edge.errors import UsageError
from psamf_edge.face.features import FacePath
from psamf_edge.media.reader import MediaReader
from psamf_edge.plan import Features, Outputs, check_features
from psamf_edge.result import MODALITIES, ModelIdentity
from psamf_edge.scorer import Scorer
from psamf_edge.words.subtitles import sidecars
from psamf_edge.words.wordpiece import WordPiece

NOBODY = ModelIdentity("features alone", "", "none", "none")


class _Recorder:
    """In the place of a backend: keeps what a model would be given."""

    name, precision, note = "none", "none", None

    def __init__(self, shapes: Shapes) -> None:
        self._shapes, self.given = shapes, None

    def run(self, features: Features) -> Outputs:
        check_features(features, self._shapes)
        self.given = features
        return Outputs(0.0, 0.5, {})

    def close(self) -> None: ...


class _Features(Scorer):
    """The runtime's way to features, with files that are in no bundle yet, and nothing that scores them."""

    def __init__(self, files: Mapping[str, bytes], shapes: Shapes) -> None:  # in place of the parent's
        self.shapes, self.identity, self.note = shapes, NOBODY, None
        self.wordpiece, self.face = WordPiece(files["vocab.txt"]), FacePath.open(files.__getitem__)
        self._backend = _Recorder(shapes)


class FeatureReader(Analyzer):
    """Rows of a file to what a model would be given of them.

    Args:
        files: vocab.txt and the face models, as a bundle holds them.
        shapes: of the model.
    """

    def __init__(self, files: Mapping[str, bytes], shapes: Shapes) -> None:  # in place of the parent's
        self._reader = MediaReader()
        try:
            self._scorer = _Features(files, shapes)
        except BaseException:
            self._reader.close()
            raise
        self.model, self.note = NOBODY, None
        self._recognisers, self._turn, self._process = {}, threading.Lock(), os.getpid()

    def features(self, row: Row) -> Features:
        """Raises InputError: the row holds nothing that can be scored."""
        score_row(self, row, MODALITIES)
        return self._scorer._backend.given


def read_samples(
    path: Path,
    files: Mapping[str, bytes],
    shapes: Shapes,
    tell: Callable[[str], None] = lambda line: None,
    most: int | None = None,
) -> tuple[list[Sample], int]:
    """The samples of a file as `psamf-edge evaluate` takes it, and how many rows could not be used.

    most: rows to read, evenly from the whole file; None: all.

    Raises:
        UsageError: the file is not one, or none of its rows can be used.
    """
    samples, failed, rows = [], 0, read_rows(path)
    if most is not None and most < len(rows):
        rows = [rows[number * len(rows) // most] for number in range(most)]
    with FeatureReader(files, shapes) as reader:
        for number, row in enumerate(rows, start=1):
            try:
                samples.append(Sample(row.id, reader.features(row), row.label))
            except Exception as error:
                if exit_code(error) != 1:
                    raise  # it would meet every row
                failed += 1
                tell(f"    {path}, line {row.line}: {describe(error)}")
            if number % PROGRESS_ROWS == 0:
                tell(f"    {number} of {len(rows)} rows")
    if not samples:
        raise UsageError(f"None of the {len(rows)} rows of {path} can be used: see above.")
    return samples, failed


PROGRESS_ROWS = 100  # between two lines of progress: a row of text takes milliseconds, one with a clip a second


def data_digest(path: Path) -> str:
    """SHA-256 over the file, every clip that it names, and the words beside a clip where the file gives none.

    A clip that is not there, or cannot be read, counts as such.
    """
    hashes: list = [hashlib.sha256(path.read_bytes()).hexdigest()]
    for row in read_rows(path):
        if row.clip is not None:
            hashes.append(_file_digest(row.clip))
            if row.text is None:
                found = {words.name: _file_digest(words) for words in sidecars(row.clip)}
                hashes += [[name, digest] for name, digest in found.items() if digest is not None]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def _file_digest(path: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        if not path.is_file():  # to open a pipe would wait for its writer
            return None
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
    return digest.hexdigest()
