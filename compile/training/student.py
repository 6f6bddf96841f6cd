"""The student from data folders to a weights directory: three stages, then what it scores on validation.

`out` keeps what an interrupted run goes on from: settings.toml, the features of voices and faces, the result of stage 1
and the checkpoints.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from psamf_edge.compile.calibration import apply, calibrate
from psamf_edge.compile.command import CARRIED
from psamf_edge.compile.data.faces import FaceSet, load_faces
from psamf_edge.compile.data.speech import SpeechSet, load_speech
from psamf_edge.compile.data.text import TextSet, read_text_set
from psamf_edge.compile.data.valence import VALENCE
from psamf_edge.compile.model import Student
from psamf_edge.compile.model.student import save_student
from psamf_edge.compile.training.epochs import Run, Validation
from psamf_edge.compile.training.files import atomic
from psamf_edge.compile.training.fusion_stage import set_feature_scales, train_fusion
from psamf_edge.compile.training.objective import Source
from psamf_edge.compile.training.settings import CorpusSettings, TrainSettings
from psamf_edge.compile.training.text_stage import merge_text, train_text
from psamf_edge.compile.training.validation import validate, validate_composed
from psamf_edge.compile.training.voice_stage import train_voice
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES, FacePath
from psamf_edge.words.wordpiece import WordPiece

COPIED = (*CARRIED, "NOTICE-mediapipe.txt")  # from the parts into the new weights
TEXT_STAGE = "text-stage.safetensors"
TEXT_PARTS = ("trunk.", "fusion.")  # what stage 1 trains


def train_student(
    data: Path,
    source: Source,
    parts: Path,
    out: Path,
    settings: TrainSettings,
    run: Run,
    command: str = "psamf-edge train student --data DATA --bert BERT -o OUT",
) -> dict:
    """All stages, evaluation on the validation splits, and the weights directory. Returns what training.json holds.

    Where `out` holds the result of stage 1 already, it is not repeated.

    Args:
        data: folder with mosi/, mosei/, speech/ and faces/.
        source: what the student begins with, and what stages 1 and 3 descend.
        parts: weights directory with the face models and the vocabulary.
        out: weights directory to write.
        command: what the record says it was made by.
    """
    started = time.monotonic()
    train, valid = read_text(data, parts, settings)
    text_stage(source, train, valid, out, settings, run)
    speech, faces = read_voices_and_faces(data, parts, out, run)

    torch.manual_seed(settings.seed + 1)
    student = source.student(speech.features[0].shape[1], len(VISION_FEATURES), settings.text_blocks)
    load_text_stage(student, out)
    ids = [row for text in train for row in text.ids]
    merged = TextSet("both", ids, np.concatenate([text.labels for text in train]))
    voices, other_voices = speech.select(~speech.validation), speech.select(speech.validation)
    set_feature_scales(student, voices, faces["train"])
    train_voice(student.audio, voices, settings, run, other_voices)

    def metrics() -> dict[str, float]:
        """The error of every subset of modalities, over the sets of sentences, and their mean."""
        tables = [validate_composed(student, text, other_voices, faces["valid"], settings) for text in valid]
        each = {f"mae.{name}": float(np.mean([table[name]["mae"] for table in tables])) for name in tables[0]}
        return {"mae": float(np.mean(list(each.values()))), **each}

    objective, validation = source.of_composed(ids), Validation(metrics, "mae")
    train_fusion(student, merged, voices, faces["train"], settings, run, objective, validation)
    record = {
        "date": date.today().isoformat(),
        "command": command,
        "settings": asdict(settings),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "data": {
            "text": {text.name: len(text) for text in train},
            "speech": len(voices.features),
            "faces": len(faces["train"]),
        },
        "valence": VALENCE,
    }
    if run.compute.is_main:
        student.cpu()
        try:
            calibration = calibrate(student, valid, other_voices, faces["valid"], settings)
            apply(student, calibration)
            record["calibration"] = calibration.record
        except UsageError as error:  # too few validation samples: no reason to lose the training
            run.log.say(f"The confidence stays uncalibrated: {error}")
            record["calibration"] = None
        save_student(student, out)
        for name in COPIED:
            if (parts / name).resolve() != (out / name).resolve():
                shutil.copyfile(parts / name, out / name)
        record["metrics"] = validate(student, valid, other_voices, faces["valid"], settings)
        with atomic(out / "training.json") as new:
            new.write_text(json.dumps(record, indent=2) + "\n")
    run.log.write("done", 0, {"minutes": (time.monotonic() - started) / 60})
    return record


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
        speech = load_speech(data / "speech", out / "speech.npz")
        faces = {
            split: load_faces(data / "faces" / f"fer2013_{split}.npz", face_path, out / f"faces-{split}.npz")
            for split in ("train", "valid")
        }
    return speech, faces


def text_stage(
    source: Source, train: list[TextSet], valid: list[TextSet], out: Path, settings: TrainSettings, run: Run
) -> None:
    """Stage 1, unless `out` holds its result already."""
    done = run.compute.from_main((out / TEXT_STAGE).is_file())
    if done:
        return
    torch.manual_seed(settings.seed)
    student = source.student(1, 1, settings.text_blocks)  # the encoders are made anew in stage 2
    train_text(student, train, valid, settings, run, source.of_words(merge_text(train, settings).ids))
    if run.compute.is_main:
        state = {n: v.cpu().contiguous() for n, v in student.state_dict().items() if n.startswith(TEXT_PARTS)}
        with atomic(out / TEXT_STAGE) as new:
            save_file(state, new)
        run.forget("text")
    run.compute.from_main(None)  # the others may look for it now


def load_text_stage(student: Student, out: Path) -> None:
    """Put the result of stage 1 into a student whose encoders are still new.

    Raises:
        UsageError: it is the result of another model.
    """
    result = student.load_state_dict(load_file(out / TEXT_STAGE), strict=False)
    if result.unexpected_keys or any(n.startswith(TEXT_PARTS) for n in result.missing_keys):
        raise UsageError(f"{out / TEXT_STAGE} does not fit this model; empty the folder and train anew.")
