"""`psamf-edge train`: data folders to a weights directory, in three stages."""

from __future__ import annotations

import json
import platform
import shutil
import time
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import click
import numpy as np

from psamf_edge.compile.command import CARRIED, DEFAULT_WEIGHTS
from psamf_edge.errors import UsageError

COPIED = (*CARRIED, "NOTICE-mediapipe.txt")  # from the parts into the new weights


@click.command("train")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder with mosi/, mosei/, speech/ and faces/ (see README, Training).",
)
@click.option(
    "--bert",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Hugging Face BERT checkpoint: config.json, model.safetensors. The default weights began with "
    "all-MiniLM-L6-v2.",
)
@click.option(
    "--parts",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=DEFAULT_WEIGHTS,
    help="Weights directory to take the face models and the vocabulary from.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Weights directory to write. Run again with the same folder to go on after an interruption.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--text-epochs", type=click.IntRange(1), help="Epochs of stage 1.  [default: 3]")
@click.option("--fusion-epochs", type=click.IntRange(1), help="Epochs of stage 3.  [default: 5]")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
def train_command(data: Path, bert: Path, parts: Path, out: Path, seed: int, text_epochs: int | None,
                  fusion_epochs: int | None, threads: int) -> None:  # fmt: skip
    """Train the edge model on text, speech and face data."""
    import torch

    from psamf_edge.compile.training.settings import TrainSettings

    torch.set_num_threads(threads)
    chosen = {"seed": seed, "text_epochs": text_epochs, "fusion_epochs": fusion_epochs}
    settings = replace(TrainSettings(), **{name: value for name, value in chosen.items() if value is not None})
    run_training(data, bert, parts, out, settings)


def run_training(data: Path, bert: Path, parts: Path, out: Path, settings) -> dict:
    """All stages, evaluation on the validation splits, and the weights directory. Returns what training.json holds.

    Stage 1 leaves `text-stage.safetensors` in `out`; where it exists already, with the same settings, it is not
    repeated.
    """
    import torch

    from psamf_edge.compile.data.faces import load_faces
    from psamf_edge.compile.data.speech import load_speech
    from psamf_edge.compile.data.text import TextSet
    from psamf_edge.compile.data.valence import VALENCE
    from psamf_edge.compile.model import Student
    from psamf_edge.compile.model.student import save_student
    from psamf_edge.compile.training.fusion_stage import set_feature_scales, train_fusion
    from psamf_edge.compile.training.loop import Log
    from psamf_edge.compile.training.validation import validate
    from psamf_edge.compile.training.voice_stage import train_voice
    from psamf_edge.face.features import VISION_FEATURES, FacePath

    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    log = Log(out / "log.csv", lambda line: click.echo(line, err=True))
    train, valid = read_text(data, parts, settings)
    text_stage(bert, train, valid, out, settings, log)

    face_path = FacePath.open(lambda name: (parts / name).read_bytes())
    speech = load_speech(data / "speech", out / "speech.npz")
    faces = {
        split: load_faces(data / "faces" / f"fer2013_{split}.npz", face_path, out / f"faces-{split}.npz")
        for split in ("train", "valid")
    }
    torch.manual_seed(settings.seed + 1)
    student = Student.from_bert(bert, speech.features[0].shape[1], len(VISION_FEATURES))
    load_text_stage(student, out)
    ids = [row for text in train for row in text.ids]
    merged = TextSet("both", ids, np.concatenate([text.labels for text in train]))
    voices = speech.select(~speech.validation)
    set_feature_scales(student, voices, faces["train"])
    train_voice(student.audio, voices, settings, log)
    train_fusion(student, merged, voices, faces["train"], settings, log)

    save_student(student, out)
    for name in COPIED:
        if (parts / name).resolve() != (out / name).resolve():
            shutil.copyfile(parts / name, out / name)
    metrics = validate(student, valid, speech.select(speech.validation), faces["valid"], settings)
    record = {
        "date": date.today().isoformat(),
        "command": "psamf-edge train --data DATA --bert all-MiniLM-L6-v2 -o OUT",
        "settings": asdict(settings),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "data": {
            "text": {text.name: len(text) for text in train},
            "speech": len(voices.features),
            "faces": len(faces["train"]),
        },
        "valence": VALENCE,
        "metrics": metrics,
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    log.write("done", 0, {"minutes": (time.monotonic() - started) / 60})
    return record


def read_text(data: Path, parts: Path, settings) -> tuple[list, list]:
    """The training and the validation sets of MOSI and MOSEI."""
    from psamf_edge.compile.data.text import read_text_set
    from psamf_edge.words.wordpiece import WordPiece

    wordpiece = WordPiece((parts / "vocab.txt").read_bytes())

    def read(split: str) -> list:
        return [
            read_text_set(data / name / "labels.csv", split, wordpiece, settings.max_tokens)
            for name in ("mosi", "mosei")
        ]

    return read("train"), read("valid")


def text_stage(bert: Path, train: list, valid: list, out: Path, settings, log) -> None:
    """Stage 1, unless `out` holds its result for these settings already."""
    import torch
    from safetensors.torch import save_file

    from psamf_edge.compile.model import Student
    from psamf_edge.compile.training.text_stage import train_text

    done, wanted = out / "text-stage.json", _text_settings(settings)
    if done.is_file():
        if json.loads(done.read_text()) != wanted:
            raise UsageError(
                f"{out} holds a text stage trained with other settings; choose another folder or empty it."
            )
        return
    torch.manual_seed(settings.seed)
    student = Student.from_bert(bert, audio_features=1, face_features=1)  # the encoders are made anew in stage 2
    train_text(student, train, valid, settings, log)
    state = {n: v.contiguous() for n, v in student.state_dict().items() if n.startswith(("trunk.", "fusion."))}
    save_file(state, out / "text-stage.safetensors")
    done.write_text(json.dumps(wanted))  # last: its presence says that the stage is whole


def load_text_stage(student, out: Path) -> None:
    """Put the result of stage 1 into a student whose encoders are still new."""
    from safetensors.torch import load_file

    state = load_file(out / "text-stage.safetensors")
    result = student.load_state_dict(state, strict=False)
    if result.unexpected_keys or any(n.startswith(("trunk.", "fusion.")) for n in result.missing_keys):
        raise UsageError(f"{out}/text-stage.safetensors does not fit this model; empty the folder and train anew.")


def _text_settings(settings) -> dict:
    return {name: value for name, value in asdict(settings).items() if not name.startswith(("fusion_", "voice_"))}
