"""What a trained student scores on the validation splits, each subset of modalities by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from psamf_edge.compile.data.compose import Composer
from psamf_edge.compile.data.faces import FaceSet
from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.samples import Batch, Samples
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.data.valence import NEGATIVE
from psamf_edge.compile.model import Student
from psamf_edge.compile.training.device import device_of, to_tensors
from psamf_edge.compile.training.fusion_stage import ALL, AUDIO, FACE, MIXED, TEXT, hidden_states, score_batch
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.compile.training.text_stage import evaluate_text
from psamf_edge.metrics import evaluate_scores

SUBSETS = {
    "text": TEXT, "audio": AUDIO, "face": FACE, "text+audio": MIXED[0], "text+face": MIXED[1], "audio+face": MIXED[2],
    "all": ALL,
}  # fmt: skip


def sign_accuracy(scores: np.ndarray, emotions: np.ndarray) -> float:
    """Balanced accuracy of the sign of valence: happy against angry, sad, fear and disgust; other samples left out."""
    happy, negative = emotions == "happy", np.isin(emotions, NEGATIVE)
    return float((np.mean(scores[happy] > 0) + np.mean(scores[negative] <= 0)) / 2)


def single_batch(student: Student, audio: list[np.ndarray], face: list[np.ndarray], present: tuple) -> Batch:
    """Samples of one modality alone: the others are one masked step of zeros, as at run time."""
    B = max(len(audio), len(face))
    nothing = [np.zeros((0, n), np.float32) for n in (student.config.audio_features, student.config.face_features)]
    rows = np.tile(np.array(present, np.float32), (B, 1, 1))  # (B, 1, 3)
    voices, faces = pad(audio or [nothing[0]] * B, np.float32), pad(face or [nothing[1]] * B, np.float32)
    return Batch(
        np.zeros((B, 1), np.int64), np.zeros((B, 1), np.float32), *voices, *faces, rows, np.zeros((B, 1), np.float32)
    )


@torch.no_grad()
def score_alone(student: Student, audio: list[np.ndarray], face: list[np.ndarray], present: tuple) -> np.ndarray:
    """Scores (N,) of voices alone or faces alone, clamped to [-3, 3]."""
    student.eval()
    scores = []
    for start in range(0, max(len(audio), len(face)), 64):
        batch = single_batch(student, audio[start : start + 64], face[start : start + 64], present)
        no_words = (np.zeros((len(batch.labels), 1, student.config.bert.width), np.float32), batch.text_mask)
        output = score_batch(student, batch, *to_tensors(no_words, device_of(student)))
        scores.append(output.score[:, 0].clamp(-3.0, 3.0).cpu().numpy())
    return np.concatenate(scores)


@torch.no_grad()
def validate(
    student: Student, texts: list[TextSet], speech: SpeechSet, faces: FaceSet, settings: TrainSettings
) -> dict[str, dict]:
    """Metrics of each modality alone on real samples, and of each subset on composed ones (seed 0, no augmentation)."""
    metrics: dict[str, dict] = {f"text {text.name}": evaluate_text(student, text) for text in texts}
    heard = score_alone(student, speech.features, [], AUDIO)
    for corpus in np.unique(speech.corpora):
        chosen = speech.corpora == corpus
        metrics[f"audio {corpus}"] = {
            "n": int(chosen.sum()), "sign_accuracy": sign_accuracy(heard[chosen], speech.emotions[chosen])
        }  # fmt: skip
    seen = score_alone(student, [], list(faces.features[:, None]), FACE)
    metrics["face fer2013"] = {"n": len(faces), "sign_accuracy": sign_accuracy(seen, faces.emotions)}
    for text in texts:
        composer = Composer(text, speech, faces, np.random.default_rng(0), augment=False)
        for name, values in validate_samples(student, composer, settings.batch).items():
            metrics[f"composed {text.name} {name}"] = values
    return metrics


@torch.no_grad()
def validate_samples(student: Student, samples: Samples, batch: int) -> dict[str, dict]:
    """The field's metrics for each subset of modalities; see `by_subset`."""
    student.eval()
    hidden = hidden_states(student, samples.text)
    scores, labels, present = [], [], []
    for rows, drawn in judged_batches(samples, SUBSETS, batch):
        states = pad([hidden[i].astype(np.float32) for i in rows], np.float32)
        output = score_batch(student, drawn, *to_tensors(states, device_of(student)))
        scores.append(output.score.clamp(-3.0, 3.0).cpu().numpy())
        labels.append(drawn.labels)
        present.append(drawn.present)
    return by_subset(*map(np.concatenate, (scores, labels, present)), SUBSETS)


def judged_batches(samples: Samples, subsets: Mapping[str, tuple], batch: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every sample once, with each subset: rows (B,) and their batch.

    In the order of the rows, in which chance draws what is composed: whoever is judged gets the same samples.
    """
    each = np.array(list(subsets.values()), np.float32)  # (S, 3)
    for start in range(0, len(samples.text), batch):
        rows = np.arange(start, min(start + batch, len(samples.text)))
        yield rows, samples.batch(rows, np.tile(each, (len(rows), 1, 1)))


def by_subset(
    scores: np.ndarray, labels: np.ndarray, present: np.ndarray, subsets: Mapping[str, tuple]
) -> dict[str, dict]:
    """Metrics of each subset from scores (N, S), labels (N, S) and what was there, present (N, S, 3).

    A sample that has nothing of a subset does not count for it; a subset that no sample has anything of is left out.
    """
    has = (present * np.array(list(subsets.values()))).any(axis=2)  # (N, S)
    return {
        name: evaluate_scores(scores[has[:, i], i], labels[has[:, i], i])
        for i, name in enumerate(subsets)
        if has[:, i].any()
    }
