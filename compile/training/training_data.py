"""What a student or a teacher is trained and judged on: folders whose samples are composed, or files of real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from psamf_edge.compile.calibration import Calibration, calibrate, calibrate_clips
from psamf_edge.compile.data.compose import Composer
from psamf_edge.compile.data.faces import FaceSet, load_faces
from psamf_edge.compile.data.real import RealSamples, describe_file, read_clips, unused_features
from psamf_edge.compile.data.samples import Samples
from psamf_edge.compile.data.speech import RECORDINGS, SpeechSet, load_speech
from psamf_edge.compile.data.text import TextSet, read_text_set
from psamf_edge.compile.data.valence import VALENCE
from psamf_edge.compile.files import atomic
from psamf_edge.compile.model import Student
from psamf_edge.compile.source import CARRIED
from psamf_edge.compile.training.epochs import Run
from psamf_edge.compile.training.made_of import Ingredient, remember
from psamf_edge.compile.training.settings import CorpusSettings, TrainSettings
from psamf_edge.compile.training.text_stage import merge_text
from psamf_edge.compile.training.validation import validate, validate_samples
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES, FacePath
from psamf_edge.words.wordpiece import WordPiece

SPEECH_CACHE = "speech.npz"
REMEMBERED = "features.json"  # in a run folder: the hashes of the files that it was begun with


class TrainingData(Protocol):
    """Labelled data of a training and of a validation split.

    train, valid: sentences, by corpus.
    speech: acted speech of the training speakers and of others, for the student's stage 2; None where there is none.
    """

    train: list[TextSet]
    valid: list[TextSet]
    speech: tuple[SpeechSet, SpeechSet] | None

    @property
    def sizes(self) -> tuple[int, int]:
        """Features of a step of voice and of face."""
        ...

    def samples(self, rng: np.random.Generator, mosi_repeats: int = 1) -> Samples:
        """Of the training split."""
        ...

    def validation(self) -> list[Samples]:
        """Of the validation split, by corpus; the same each time."""
        ...

    def calibrate(self, student: Student, settings: TrainSettings) -> Calibration:
        """Of the student's confidence. Raises UsageError if the validation split is too small for that."""
        ...

    def validate(self, student: Student, settings: TrainSettings) -> dict[str, dict]:
        """The student's metrics on the validation split, by name."""
        ...

    def record(self) -> dict[str, Any]:
        """What training.json says of the data."""
        ...


@dataclass(frozen=True)
class ComposedData:
    """Sentences, acted voices and photographed faces, which compose.py makes samples of."""

    train: list[TextSet]
    valid: list[TextSet]
    speech: tuple[SpeechSet, SpeechSet]
    faces: dict[str, FaceSet]  # train and valid

    @property
    def sizes(self) -> tuple[int, int]:
        return self.speech[0].features[0].shape[1], len(VISION_FEATURES)

    def samples(self, rng: np.random.Generator, mosi_repeats: int = 1) -> Composer:
        return Composer(merge_text(self.train, mosi_repeats), self.speech[0], self.faces["train"], rng, augment=True)

    def validation(self) -> list[Composer]:
        other_voices, faces = self.speech[1], self.faces["valid"]
        return [Composer(text, other_voices, faces, np.random.default_rng(0), augment=False) for text in self.valid]

    def calibrate(self, student: Student, settings: TrainSettings) -> Calibration:
        return calibrate(student, self.valid, self.speech[1], self.faces["valid"], settings)

    def validate(self, student: Student, settings: TrainSettings) -> dict[str, dict]:
        return validate(student, self.valid, self.speech[1], self.faces["valid"], settings)

    def record(self) -> dict[str, Any]:
        counts = {
            "text": {text.name: len(text) for text in self.train},
            "speech": len(self.speech[0].features),
            "faces": len(self.faces["train"]),
        }
        return {"data": counts, "valence": VALENCE}


class RealData:
    """The clips of feature files (data/real.py).

    Raises:
        InputError: a file is no feature file, or damaged.
        UsageError: the files do not go together, or have too little of something to train on.
    """

    speech = None

    def __init__(self, files: Sequence[Path], settings: CorpusSettings) -> None:
        self._about = [describe_file(path) for path in files]
        unused = unused_features(files)
        self._make_train, make_valid = (
            partial(RealSamples, read_clips(files, split), max_tokens=settings.max_tokens, unused=unused)
            for split in ("train", "valid")
        )
        self._train, self._valid = (make(np.random.default_rng(0)) for make in (self._make_train, make_valid))
        self.train, self.valid = [self._train.sentences()], [self._valid.sentences()]
        names = ", ".join(map(str, files))
        if not len(self.valid[0]):
            raise UsageError(f"No validation clip of {names} has words; there is nothing to judge a training by.")
        if len(self.train[0]) < settings.batch:
            raise UsageError(
                f"{names} has {len(self.train[0])} training clips with words, too few for a batch of {settings.batch}; "
                "choose a smaller one with --set batch=N."
            )
        for stream, has in (("voice", self._train.there[:, 1]), ("face", self._train.there[:, 2])):
            if not has.any():
                raise UsageError(f"No training clip of {names} has a {stream}; the model must have seen some.")

    @property
    def sizes(self) -> tuple[int, int]:
        return self._train.audio[0].shape[1], self._train.vision[0].shape[1]

    def samples(self, rng: np.random.Generator, mosi_repeats: int = 1) -> RealSamples:
        """Of the training split. mosi_repeats has no say: the files are taken as they are."""
        return self._make_train(rng)

    def validation(self) -> list[RealSamples]:
        return [self._valid]

    def calibrate(self, student: Student, settings: TrainSettings) -> Calibration:
        return calibrate_clips(student, self._valid, settings)

    def validate(self, student: Student, settings: TrainSettings) -> dict[str, dict]:
        metrics = validate_samples(student, self._valid, settings.batch)
        return {f"{self._valid.text.name} {name}": values for name, values in metrics.items()}

    def record(self) -> dict[str, Any]:
        splits = {"train": self._train, "valid": self._valid}
        return {
            "data": {
                "samples": "real: words, voice, face and label of one clip",
                "clips": {split: len(samples.text) for split, samples in splits.items()},
                "left out, with nothing in them": {split: samples.left_out for split, samples in splits.items()},
                "features": self._about,
            }
        }

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of each file."""
        return [about["sha256"] for about in self._about]


def open_data(
    data: Path | Sequence[Path], parts: Path, out: Path, settings: CorpusSettings, run: Run
) -> ComposedData | RealData:
    """Read what to train on.

    Args:
        data: the folder with mosi/, mosei/, speech/ and faces/, or feature files.
        parts: directory with the vocabulary and the face models; feature files need neither.
        out: run folder; the features of voices and faces are kept there.

    Raises:
        InputError, UsageError: something is missing or damaged, or `out` was begun with other data.
    """
    if isinstance(data, Path):
        train, valid = read_text(data, parts, settings)
        with run.compute.main_first():
            remember_folder(out, data, parts, settings)
        speech, faces = read_voices_and_faces(data, parts, out, run)
        return ComposedData(train, valid, (speech.select(~speech.validation), speech.select(speech.validation)), faces)
    real = RealData(data, settings)
    with run.compute.main_first():
        remember_files(out, real.hashes)
    return real


def remember_data(out: Path, data: Path | Sequence[Path], parts: Path, settings: CorpusSettings) -> None:
    """Hold what a student would be given against what `out` was begun with; what `out` does not know it remembers.

    Raises:
        UsageError: something differs, or is missing.
    """
    if isinstance(data, Path):
        remember_folder(out, data, parts, settings)
    else:
        remember_files(out, [describe_file(path)["sha256"] for path in data])
        remember(out, given_parts(parts))


def remember_folder(out: Path, data: Path, parts: Path, settings: CorpusSettings) -> None:
    """The same of a folder of data."""
    if (out / REMEMBERED).is_file():
        raise UsageError(f"{out} was begun with --features; go on with those, or choose another folder.")
    remember(out, ingredients(data, parts, settings))


def remember_files(out: Path, hashes: list[str]) -> None:
    """The same of feature files. hashes: SHA-256 of each."""
    if (out / SPEECH_CACHE).is_file():
        raise UsageError(f"{out} was begun with --data; go on with that, or choose another folder.")
    remembered = out / REMEMBERED
    if remembered.is_file() and json.loads(remembered.read_text()) != hashes:
        raise UsageError(f"{out} was begun with other feature files; go on with those, or choose another folder.")
    if not remembered.is_file():
        with atomic(remembered) as new:
            new.write_text(json.dumps(hashes) + "\n")


def ingredients(data: Path, parts: Path, settings: CorpusSettings) -> dict[str, Ingredient]:
    """The folder of the data file by file, the recordings together, and what `parts` gives to read them with.

    Pictures that are not there are left out: they may go when their features are kept.
    """
    labels = [f"{name}/labels.csv" for name in settings.corpus_names]
    pictures = [f"faces/fer2013_{split}.npz" for split in ("train", "valid")]
    names = (*labels, *(name for name in pictures if (data / name).is_file()))
    found = {f"--data {name}": Ingredient.of_folder(data, name) for name in names}
    recordings = sorted(path for path in (data / "speech").rglob("*") if path.suffix in RECORDINGS)
    if recordings:
        files = {path.relative_to(data).as_posix(): path for path in recordings}
        found["--data speech"] = Ingredient.of_files(data.resolve().name, files)
    return found | given_parts(parts)


def given_parts(parts: Path) -> dict[str, Ingredient]:
    """What a student's weights get copies of."""
    return {"--parts": Ingredient.of_folder(parts, *CARRIED)}


def read_text(data: Path, parts: Path, settings: CorpusSettings) -> tuple[list[TextSet], list[TextSet]]:
    """The training and the validation sets of the corpora that the settings name."""
    wordpiece = WordPiece((parts / "vocab.txt").read_bytes())

    def read(split: str) -> list[TextSet]:
        return [
            read_text_set(data / name / "labels.csv", split, wordpiece, settings.max_tokens)
            for name in settings.corpus_names
        ]

    return read("train"), read("valid")


def read_voices_and_faces(data: Path, parts: Path, out: Path, run: Run) -> tuple[SpeechSet, dict[str, FaceSet]]:
    """Features of the voices, and of the faces by split: computed once, then read from `out`."""
    face_path = FacePath.open(lambda name: (parts / name).read_bytes())
    with run.compute.main_first():
        speech = load_speech(data / "speech", out / SPEECH_CACHE)
        faces = {
            split: load_faces(data / "faces" / f"fer2013_{split}.npz", face_path, out / f"faces-{split}.npz")
            for split in ("train", "valid")
        }
    return speech, faces
