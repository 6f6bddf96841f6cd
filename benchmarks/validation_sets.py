"""The validation sets as a user would hand them over: sentences, sound files, picture files, each with its label."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from psamf_edge.analyzer import Analyzer
from psamf_edge.compile.data.speech import VALIDATION, describe
from psamf_edge.compile.data.valence import VALENCE
from psamf_edge.compile.expression.data import SYNONYMS
from psamf_edge.errors import InputError
from psamf_edge.result import Result

FRAME, FACE_SIDE, GREY = (480, 640), 288, 128  # pixels; six times FER2013's size


@dataclass(frozen=True)
class ValidationSet:
    """Samples of one modality alone.

    labels: (N,) in [-3, 3]; of voices and faces the valence of their emotion. emotions: (N,) str, empty for sentences.
    """

    name: str
    modality: str  # one of MODALITIES
    items: list[str] | list[Path]  # sentences or files
    labels: np.ndarray
    emotions: np.ndarray

    def results(self, analyzer: Analyzer) -> Iterator[Result | None]:
        """What the analyzer says of each item, as one utterance; None where it finds nothing to score in a file."""
        for item in self.items:
            if isinstance(item, str):
                yield analyzer(text=item, whole=True)
                continue
            try:
                yield analyzer(item, modalities=(self.modality,), whole=True)
            except InputError:
                yield None


def validation_sets(data: Path, folder: Path, pictures: int) -> list[ValidationSet]:
    """MOSI, MOSEI, RAVDESS, EMO-DB (speakers not trained on) and the first `pictures` of FER2013's validation split.

    Args:
        data: has mosi/, mosei/, speech/ and faces/.
        folder: an empty one; the pictures are written there and must stay as long as the sets are used.
    """
    return [
        *(_sentences(data, name) for name in ("mosi", "mosei")),
        *(_voices(data, corpus) for corpus in ("ravdess", "emodb")),
        _faces(data, folder, pictures),
    ]


def _sentences(data: Path, name: str) -> ValidationSet:
    with (data / name / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "valid"]
    labels = np.array([float(row["label"]) for row in rows])
    return ValidationSet(f"text {name}", "text", [row["text"] for row in rows], labels, np.full(len(rows), ""))


def sitcom(data: Path) -> ValidationSet:
    """Sentences of another kind than those trained on: MELD's validation split, labelled -1, 0 or 1 with the scene."""
    with (data / "meld" / "valid.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([{"negative": -1.0, "neutral": 0.0, "positive": 1.0}[row["Sentiment"]] for row in rows])
    return ValidationSet("text meld", "text", [row["Utterance"] for row in rows], labels, np.full(len(rows), ""))


def _voices(data: Path, corpus: str) -> ValidationSet:
    files = [path for path in sorted((data / "speech" / corpus).glob("*.opus")) if describe(path)[2] in VALIDATION]
    return _acted(f"audio {corpus}", "audio", files, [describe(path)[1] for path in files])


def _faces(data: Path, folder: Path, pictures: int) -> ValidationSet:
    faces = np.load(data / "faces" / "fer2013_valid.npz", allow_pickle=False)
    names = [str(faces["classes"][label]) for label in faces["labels"][:pictures]]
    files = [folder / f"{i:05d}.png" for i in range(len(names))]
    for path, image in zip(files, faces["images"], strict=False):
        write_png(path, framed(image))
    return _acted("face fer2013", "face", files, [SYNONYMS.get(name, name) for name in names])


def _acted(name: str, modality: str, files: list[Path], emotions: list[str]) -> ValidationSet:
    return ValidationSet(name, modality, files, np.array([VALENCE[e] for e in emotions]), np.array(emotions))


def framed(picture: np.ndarray) -> np.ndarray:
    """A picture that is all face, (48, 48) uint8, as a camera has it: enlarged, in the middle of FRAME, (480, 640).

    Its hard edges make it more difficult to find than a head in a room: at four times its size, instead of six, twice
    as many are missed.
    """
    enlarged = av.VideoFrame.from_ndarray(picture, format="gray").reformat(
        FACE_SIDE, FACE_SIDE, interpolation="BICUBIC"
    )
    frame = np.full(FRAME, GREY, np.uint8)
    top, left = (FRAME[0] - FACE_SIDE) // 2, (FRAME[1] - FACE_SIDE) // 2
    frame[top : top + FACE_SIDE, left : left + FACE_SIDE] = enlarged.to_ndarray(format="gray")
    return frame


def write_png(path: Path, gray: np.ndarray) -> None:
    """A grey picture (H, W) uint8 as a PNG file."""
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1, width=gray.shape[1], height=gray.shape[0], pix_fmt="gray")
        frame = av.VideoFrame.from_ndarray(gray, format="gray")
        container.mux(stream.encode(frame) + stream.encode())
