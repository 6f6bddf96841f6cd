"""What a student says of validation samples, gathered in folds that share no video, no speaker and no picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from psamf_edge.compile.calibration.folds import deal, deal_corpora
from psamf_edge.compile.calibration.metrics import balanced_weights
from psamf_edge.compile.data.compose import Composer
from psamf_edge.compile.data.faces import FaceSet
from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.real import RealSamples
from psamf_edge.compile.data.samples import Batch, Samples
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.data.valence import VALENCE
from psamf_edge.compile.model import Student
from psamf_edge.compile.training.device import device_of, to_tensors
from psamf_edge.compile.training.fusion_stage import AUDIO, FACE, hidden_states, score_batch
from psamf_edge.compile.training.validation import SUBSETS, single_batch
from psamf_edge.errors import UsageError
from psamf_edge.plan import confidence
from psamf_edge.result import SCORE_LIMIT

SENTENCES = ("text", "text+audio", "text+face", "audio+face", "all")  # scored on sentences; the others stand alone
CHUNK = 64  # samples scored at a time


@dataclass(frozen=True)
class Predictions:
    """Samples of one validation set scored with one subset of modalities, those without a sign among them.

    weights: how much each sample counts: sentences alike, voices and faces alone so that both signs weigh the same, as
    in the balanced accuracy reported for them.
    """

    name: str
    subset: str  # a key of SUBSETS
    heads: np.ndarray  # (N, 128) float64: what the output layer reads
    scores: np.ndarray  # (N,) in [-3, 3]
    log_scales: np.ndarray  # (N,)
    labels: np.ndarray  # (N,)
    weights: np.ndarray  # (N,)

    @property
    def right(self) -> np.ndarray:
        """Whether the sign is right, (N,) bool, as Acc-2 non0 decides it."""
        return (self.scores > 0) == (self.labels > 0)

    def confidences(self, correction: np.ndarray | float = 0.0) -> np.ndarray:
        """The confidence (N,) that the runtime gives, with something (N,) added to the log-scale."""
        pairs = zip(self.scores, self.log_scales + correction, strict=True)
        return np.array([confidence(float(score), float(log_scale)) for score, log_scale in pairs])

    def signed(self) -> Predictions:
        """Without the samples whose label is 0 (non0): they have no sign to be right about."""
        return self.select(self.labels != 0)

    def select(self, keep: np.ndarray) -> Predictions:
        """The samples where `keep` (N,) is true."""
        arrays = (self.heads, self.scores, self.log_scales, self.labels, self.weights)
        return Predictions(self.name, self.subset, *(array[keep] for array in arrays))


def gather(
    student: Student, texts: list[TextSet], speech: SpeechSet, faces: FaceSet, batch: int, folds: int
) -> list[list[Predictions]]:
    """Predictions on every set, for each fold; `deal_corpora` may make fewer of them.

    Whole videos and whole speakers are dealt out first, and what they hold is composed within its fold, so that no fold
    has read or heard anybody of another. Pictures, which name nobody, and sentences of a set without videos are dealt
    one by one.

    Raises:
        UsageError: there are too few voices or faces for two folds.
    """
    student.eval()
    dealt = deal_corpora(texts, speech, faces, folds)
    hidden = [hidden_states(student, text) for text in texts]
    gathered = []
    for k in range(dealt.count):
        heard = speech.select(dealt.voices == k)
        at = dealt.faces == k
        seen = FaceSet(faces.features[at], faces.emotions[at], faces.found[at])
        sets = list(_voices_and_faces(student, heard, seen))
        for text, states, of in zip(texts, hidden, dealt.texts, strict=True):
            if not (of == k).any():
                continue
            composer = Composer(text, heard, seen, np.random.default_rng(k), augment=False)
            names = {subset: f"composed {text.name} {subset}" for subset in SENTENCES} | {"text": f"text {text.name}"}
            sets += _together(student, composer, names, states, np.flatnonzero(of == k), batch)
        gathered.append(sets)
    return gathered


def gather_clips(student: Student, clips: RealSamples, batch: int, folds: int) -> list[list[Predictions]]:
    """Predictions on real samples, for each fold: whole videos, of at least one a fold, and fewer folds for fewer.

    Raises:
        UsageError: all clips are of one video.
    """
    groups = clips.text.groups  # (N,)
    if (folds := min(folds, len(np.unique(groups)))) < 2:
        raise UsageError("The validation clips are all of one video; two folds need a video each.")
    fold = deal(groups, np.zeros(len(groups)), folds, np.random.default_rng(0))  # (N,)
    names, hidden = {subset: f"{clips.text.name} {subset}" for subset in SUBSETS}, hidden_states(student, clips.text)
    return [_together(student, clips, names, hidden, np.flatnonzero(fold == k), batch) for k in range(folds)]


def _voices_and_faces(student: Student, speech: SpeechSet, faces: FaceSet) -> Iterator[Predictions]:
    """Real samples of one modality: each corpus of voices, then the faces."""
    for corpus in np.unique(speech.corpora):
        chosen = speech.select(speech.corpora == corpus)
        yield _alone(student, f"audio {corpus}", "audio", chosen.features, [], chosen.emotions)
    yield _alone(student, "face fer2013", "face", [], list(faces.features[:, None]), faces.emotions)


def _alone(
    student: Student, name: str, subset: str, voices: list[np.ndarray], faces: list[np.ndarray], emotions: np.ndarray
) -> Predictions:
    parts = []
    for start in range(0, len(emotions), CHUNK):
        rows = slice(start, start + CHUNK)
        batch = single_batch(student, voices[rows], faces[rows], AUDIO if voices else FACE)
        no_words = np.zeros((len(batch.labels), 1, student.config.bert.width), np.float32), batch.text_mask
        parts.append(_scored(student, batch, no_words))
    columns = (np.concatenate(column)[:, 0] for column in zip(*parts, strict=True))
    labels = np.array([VALENCE[str(e)] for e in emotions])
    return Predictions(name, subset, *columns, labels, balanced_weights(labels))


def _together(
    student: Student,
    samples: Samples,
    names: Mapping[str, str],
    hidden: list[np.ndarray],
    rows: np.ndarray,
    batch: int,
) -> list[Predictions]:
    """The samples `rows` for each subset in `names`, which gives the set its name, where they have anything of it."""
    present = np.array([SUBSETS[subset] for subset in names], np.float32)  # (S, 3)
    parts, labels, has = [], [], []
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        drawn = samples.batch(some, np.tile(present, (len(some), 1, 1)))
        states = pad([hidden[i].astype(np.float32) for i in some], np.float32)
        parts.append(_scored(student, drawn, states))
        labels.append(drawn.labels)
        has.append((drawn.present * present).any(axis=2))
    heads, scores, log_scales = (np.concatenate(column) for column in zip(*parts, strict=True))  # (N, S, ...)
    truth, ones = np.concatenate(labels).astype(np.float64), np.ones(len(rows))
    return [
        Predictions(name, subset, heads[:, i], scores[:, i], log_scales[:, i], truth[:, i], ones).select(keep)
        for i, ((subset, name), keep) in enumerate(zip(names.items(), np.concatenate(has).T, strict=True))
    ]


@torch.no_grad()
def _scored(
    student: Student, batch: Batch, states: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heads (B, S, 128), scores (B, S) and log-scales (B, S), in float64 as the runtime computes the confidence."""
    with _reads_of(student.fusion.enhanced.output) as heads:
        output = score_batch(student, batch, *to_tensors(states, device_of(student)))
    scores = output.score.clamp(-SCORE_LIMIT, SCORE_LIMIT)
    return tuple(x.double().cpu().numpy() for x in (heads[0], scores, output.log_scale))


@contextmanager
def _reads_of(layer: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list that fills with what the layer is given."""
    given: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        yield given
    finally:
        handle.remove()
