"""Voices of speakers not trained on, by cross-validation: python -m benchmarks.voice_speakers --data DATA --cache FILE

The validation split has four actors of RAVDESS with eight happy recordings each, so that one actor decides much of what
is measured on it. Here stage 2 of the student's training is done once for each group of four actors (and one or two
speakers of EMO-DB), on all others; the validation speakers are the last group. Every speaker is then judged by a voice
encoder that never heard them. What the split measures can be told from what the encoder is worth by the two.
Writes results/voice_speakers.json; a minute and a half for each group and seed on one core.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.collection import spread_of
from benchmarks.measure import machine, save
from benchmarks.tables import voice_speakers
from psamf_edge.compile.data.samples import Statistics
from psamf_edge.compile.data.speech import VALIDATION, SpeechSet, load_speech
from psamf_edge.compile.data.valence import NEGATIVE
from psamf_edge.compile.model.encoders import SequenceEncoder
from psamf_edge.compile.model.student import StudentConfig
from psamf_edge.compile.personality.evaluation import auc
from psamf_edge.compile.training.epochs import Run
from psamf_edge.compile.training.fusion_stage import set_scale
from psamf_edge.compile.training.log import Log
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.compile.training.validation import sign_accuracy
from psamf_edge.compile.training.voice_stage import hear, train_voice

FOLDS = 5  # with the validation speakers: four of sixteen actors each, as many as the validation split has


def groups(speakers: np.ndarray) -> list[list[str]]:
    """The speakers of each fold, dealt in turns corpus by corpus; the validation speakers are the last one's.

    RAVDESS's women have even numbers, so that a quarter of consecutive actors is balanced; they are taken in a row.
    """
    dealt: list[list[str]] = [[] for _ in range(FOLDS - 1)]
    for corpus in ("ravdess", "emodb"):
        names = sorted({name for name in speakers.tolist() if name.startswith(corpus)} - VALIDATION)
        for fold, chosen in zip(dealt, np.array_split(names, FOLDS - 1), strict=True):
            fold.extend(chosen.tolist())
    return [*dealt, sorted(set(speakers.tolist()) & VALIDATION)]


def measure(scores: np.ndarray, speech: SpeechSet) -> dict[str, float | None]:
    """Balanced accuracy of the valence sign, and how well its order tells happy from negative (AUC)."""
    judged = np.isin(speech.emotions, ("happy", *NEGATIVE))
    area = auc(scores[judged], speech.emotions[judged] == "happy")
    return {"sign_accuracy": sign_accuracy(scores, speech.emotions), "auc": area}


def heard_by_others(speech: SpeechSet, theirs: np.ndarray, settings: TrainSettings) -> np.ndarray:
    """Train on everyone but the speakers of the recordings `theirs` (N,); the valences (n,) of those recordings."""
    torch.manual_seed(settings.seed)
    train = speech.select(~theirs)
    steps = np.concatenate(train.features)  # (sum T, 63)
    sizes = StudentConfig(steps.shape[1], face_features=1)
    encoder = SequenceEncoder(sizes.audio_features, sizes.width, sizes.audio_strides, sizes.dropout)
    set_scale(encoder, Statistics(steps.mean(axis=0), steps.std(axis=0)))
    task = train_voice(encoder, train, settings, Run(Log(None, lambda line: None)))
    return hear(task, speech.select(theirs))


def rows_of(speech: SpeechSet, folds: list[list[str]]) -> dict[str, np.ndarray]:
    """The recordings (N,) that each row of the table is about: each fold's and all, corpus by corpus."""
    rows = {}
    for corpus in np.unique(speech.corpora).tolist():
        for held_out in folds:
            if names := [name for name in held_out if name.startswith(corpus)]:
                title = " ".join(name.removeprefix(corpus).strip() for name in names)
                rows[f"{corpus} {title}"] = np.isin(speech.speakers, names)
        rows[f"{corpus} all"] = speech.corpora == corpus
    return rows


def cross_validate(speech: SpeechSet, seeds: int, settings: dict) -> dict:
    """Every recording's valence from those who did not train on its speaker, measured by fold and by corpus."""
    folds = groups(speech.speakers)
    rows, by_seed = rows_of(speech, folds), []
    for seed in range(seeds):
        scores = np.empty(len(speech.emotions), np.float32)
        for held_out in folds:
            theirs = np.isin(speech.speakers, held_out)
            scores[theirs] = heard_by_others(speech, theirs, TrainSettings(seed=seed, **settings))
            print(f"seed {seed}, without {', '.join(held_out)}", file=sys.stderr, flush=True)
        by_seed.append({name: measure(scores[of], speech.select(of)) for name, of in rows.items()})
    return {
        name: {
            "recordings": int(of.sum()),
            "happy": int((speech.emotions[of] == "happy").sum()),
            "validation": bool(speech.validation[of].all()),
            **spread_of([one[name] for one in by_seed]),
        }
        for name, of in rows.items()
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with speech/")
    parser.add_argument("--cache", type=Path, required=True, help="speech.npz of a training, or where to write one")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=TrainSettings.voice_steps, help="of each training")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--output", type=Path, help="where to write (results/voice_speakers.json)")
    given = parser.parse_args(arguments)
    speech, settings = load_speech(given.data / "speech", given.cache), {"voice_steps": given.steps}
    torch.set_num_threads(given.threads)
    rows = cross_validate(speech, given.seeds, settings)
    record = {
        "machine": machine(),
        "torch": torch.__version__,
        "seeds": given.seeds,
        "settings": {k: v for k, v in asdict(TrainSettings(**settings)).items() if k != "seed"},
        "rows": rows,
    }
    save("voice_speakers", record, given.output)
    print(voice_speakers(record))


if __name__ == "__main__":
    main()
