"""The teacher from labelled data to a directory of weights that `psamf-edge distill` takes.

`out` keeps what an interrupted run goes on from: settings.toml, made-of.json, the features of voices and faces, the
personality vectors and the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from psamf_edge.compile.data.text import check_tokens
from psamf_edge.compile.files import copy_whole
from psamf_edge.compile.model.pretrained import ENCODER_FILES, find_encoder, read_config
from psamf_edge.compile.model.teacher import Teacher, save_teacher
from psamf_edge.compile.personality.model import NAME as PERSONALITY
from psamf_edge.compile.personality.model import load_personality
from psamf_edge.compile.personality.vectors import cached_vectors
from psamf_edge.compile.training.epochs import Run, Validation
from psamf_edge.compile.training.fusion_stage import set_feature_scales
from psamf_edge.compile.training.made_of import Ingredient, remember
from psamf_edge.compile.training.record import training_record, write_record
from psamf_edge.compile.training.teacher_stage import TeacherSettings, train_teacher, validate_teacher
from psamf_edge.compile.training.training_data import open_data
from psamf_edge.compile.training.validation import SUBSETS


def train_psamf(
    data: Path | Sequence[Path],
    bert: str | Path,
    personality: Path,
    parts: Path,
    out: Path,
    settings: TeacherSettings,
    run: Run,
) -> dict:
    """Train PSA-MF, and write teacher.safetensors, teacher.json, training.json and the personality
    encoder that it was trained with.

    Args:
        data: folder with mosi/, mosei/, speech/ and faces/, which samples are composed of; or feature files of real
            ones.
        bert: checkpoint directory or hub name of the text encoder.
        personality: directory of the frozen personality encoder.
        parts: directory with the vocabulary and the face models, for the folder.

    Returns:
        what training.json holds.

    Raises:
        UsageError: `out` was begun with other data or other encoders; or they cannot be used together.
    """
    started = time.monotonic()
    labelled = open_data(data, parts, out, settings, run)
    samples = labelled.samples(np.random.default_rng(settings.seed), settings.mosi_repeats)
    encoder = load_personality(personality).to(run.compute.device)
    texts = [("train", samples.text), *(("valid", judged.text) for judged in labelled.validation())]
    for _, text in texts:
        check_tokens(text, encoder.config.vocabulary)
    with run.compute.main_first():
        start = find_encoder(bert)  # one process fetches it
        read_config(start)  # a folder must not be begun with something that is no encoder
        remember(out, {
            "--bert": Ingredient.of_folder(start, *ENCODER_FILES),
            "--personality": Ingredient.of_folder(personality, f"{PERSONALITY}.safetensors"),
        })  # fmt: skip
        vectors = {
            (split, text.name): cached_vectors(encoder, text.ids, out / f"personality-{split}-{text.name}.npz")
            for split, text in texts
        }
    torch.manual_seed(settings.seed)
    teacher = Teacher.from_bert(
        start, *labelled.sizes, settings.preset_of_model, personality_width=encoder.config.width,
        **settings.options_of_model,
    )  # fmt: skip
    for _, text in texts:
        check_tokens(text, teacher.config.bert.vocabulary)
    set_feature_scales(teacher, samples)

    def judge(subsets: Mapping[str, tuple]) -> dict[str, dict]:
        """Metrics of each validation set and subset of modalities."""
        return {
            f"{judged.text.name} {name}": values
            for judged in labelled.validation()
            for name, values in validate_teacher(teacher, judged, vectors["valid", judged.text.name], subsets).items()
        }

    def error() -> dict[str, float]:
        """Words alone and everything together, over the sets of sentences."""
        each = {name: values["mae"] for name, values in judge({n: SUBSETS[n] for n in ("text", "all")}).items()}
        return {"mae": float(np.mean(list(each.values()))), **{f"mae.{name}": value for name, value in each.items()}}

    train_teacher(teacher, samples, vectors["train", samples.text.name], settings, run, Validation(error, "mae"))
    record = training_record(settings, labelled.record(), model=asdict(teacher.config))
    record["minutes"] = round((time.monotonic() - started) / 60, 1)
    if run.compute.is_main:
        save_teacher(teacher, out)
        for suffix in ("safetensors", "json"):
            copy_whole(personality / f"{PERSONALITY}.{suffix}", out / f"{PERSONALITY}.{suffix}")
        record["metrics"] = judge(SUBSETS)
        write_record(out, record)
    run.log.write("done", 0, {"minutes": record["minutes"]})
    return record
