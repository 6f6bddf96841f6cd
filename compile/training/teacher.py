"""The teacher from data folders to a directory of weights that `psamf-edge distill` takes.

`out` keeps what an interrupted run goes on from: settings.toml, the features of voices and faces, the personality
vectors and the checkpoint.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import torch

from psamf_edge.compile.data.valence import VALENCE
from psamf_edge.compile.model.teacher import Teacher, save_teacher
from psamf_edge.compile.personality.model import NAME as PERSONALITY
from psamf_edge.compile.personality.model import load_personality
from psamf_edge.compile.personality.vectors import cached_vectors
from psamf_edge.compile.training.epochs import Run, Validation
from psamf_edge.compile.training.files import atomic
from psamf_edge.compile.training.fusion_stage import set_feature_scales
from psamf_edge.compile.training.student import read_text, read_voices_and_faces
from psamf_edge.compile.training.teacher_stage import TeacherSettings, train_teacher, validate_teacher
from psamf_edge.compile.training.text_stage import merge_text
from psamf_edge.compile.training.validation import SUBSETS
from psamf_edge.face.features import VISION_FEATURES


def train_psamf(
    data: Path,
    bert: str | Path,
    personality: Path,
    parts: Path,
    out: Path,
    settings: TeacherSettings,
    run: Run,
) -> dict:
    """Train PSA-MF on composed samples, and write teacher.safetensors, teacher.json, training.json and the personality
    encoder that it was trained with.

    Args:
        data: folder with mosi/, mosei/, speech/ and faces/.
        bert: checkpoint directory or hub name of the text encoder.
        personality: directory of the frozen personality encoder.
        parts: directory with the vocabulary and the face models.

    Returns:
        what training.json holds.
    """
    started = time.monotonic()
    train, valid = read_text(data, parts, settings)
    speech, faces = read_voices_and_faces(data, parts, out, run)
    merged = merge_text(train, settings)
    encoder = load_personality(personality).to(run.compute.device)
    with run.compute.main_first():
        vectors = {
            text.name: cached_vectors(encoder, text.ids, out / f"personality-{split}-{text.name}.npz")
            for split, texts in (("train", [merged]), ("valid", valid))
            for text in texts
        }
    torch.manual_seed(settings.seed)
    audio_features = speech.features[0].shape[1]
    teacher = Teacher.from_bert(
        bert, audio_features, len(VISION_FEATURES), settings.preset_of_model,
        personality_width=encoder.config.width, **settings.options_of_model,
    )  # fmt: skip
    voices, other_voices = speech.select(~speech.validation), speech.select(speech.validation)
    set_feature_scales(teacher, voices, faces["train"])

    def judge(subsets: Mapping[str, tuple]) -> dict[str, dict]:
        """Metrics of each set of sentences and subset of modalities."""
        return {
            f"{text.name} {name}": values
            for text in valid
            for name, values in validate_teacher(
                teacher, text, other_voices, faces["valid"], vectors[text.name], subsets
            ).items()
        }

    def error() -> dict[str, float]:
        """Words alone and everything together, over the sets of sentences."""
        each = {name: values["mae"] for name, values in judge({n: SUBSETS[n] for n in ("text", "all")}).items()}
        return {"mae": float(np.mean(list(each.values()))), **{f"mae.{name}": value for name, value in each.items()}}

    train_teacher(teacher, merged, voices, faces["train"], vectors["merged"], settings, run, Validation(error, "mae"))
    record = {
        "date": date.today().isoformat(),
        "settings": asdict(settings),
        "model": asdict(teacher.config),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "data": {
            "text": {text.name: len(text) for text in train},
            "speech": len(voices.features),
            "faces": len(faces["train"]),
        },
        "valence": VALENCE,
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    if run.compute.is_main:
        save_teacher(teacher, out)
        for suffix in ("safetensors", "json"):
            shutil.copyfile(personality / f"{PERSONALITY}.{suffix}", out / f"{PERSONALITY}.{suffix}")
        record["metrics"] = judge(SUBSETS)
        with atomic(out / "training.json") as new:
            new.write_text(json.dumps(record, indent=2) + "\n")
    run.log.write("done", 0, {"minutes": record["minutes"]})
    return record
