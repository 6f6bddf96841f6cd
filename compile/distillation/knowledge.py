"""What teachers know of sentences, with voice and face missing: asked once, since neither changes in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psamf_edge.compile.model.teacher import Teacher, TeacherOutput
from psamf_edge.compile.training.device import device_of, to_tensors
from psamf_edge.compile.training.reading import by_length
from psamf_edge.result import SCORE_LIMIT


@dataclass(frozen=True)
class Knowledge:
    """Of N sentences. Every array is float32."""

    scores: np.ndarray  # (N,), the mean over the teachers, in [-3, 3]
    cls: np.ndarray  # (N, H), the first teacher's CLS after its block N: what the student's trunk should end with
    personality: np.ndarray  # (N, Hp), of the frozen personality encoder, or (N, H) as the first teacher takes it in

    def rows(self, chosen: np.ndarray) -> Knowledge:
        """Of the sentences `chosen`, in that order; one may come several times."""
        return Knowledge(self.scores[chosen], self.cls[chosen], self.personality[chosen])


def distinct(sentences: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """The different ones among token id arrays, and for each sentence (N,) the number of its own."""
    numbers: dict[bytes, int] = {}
    own = np.array([numbers.setdefault(ids.tobytes(), len(numbers)) for ids in sentences])
    first = np.unique(own, return_index=True)[1]  # (D,)
    return [sentences[i] for i in first], own


@torch.no_grad()
def ask(
    teachers: Sequence[Teacher],
    sentences: Sequence[np.ndarray],
    personality: np.ndarray,
    fitted: bool = True,
    batch: int = 64,
) -> Knowledge:
    """Let the teachers read sentences alone.

    Args:
        teachers: all on one device, in evaluation mode, with one text width.
        sentences: N arrays of token ids (L_i,).
        personality: (N, Hp), of the encoder that all teachers were trained with.
        fitted: give the personality in the first teacher's text width, and not as it is.
    """
    N, first = len(sentences), teachers[0]
    scores = np.zeros(N, np.float32)
    cls = np.zeros((N, first.config.bert.width), np.float32)
    taken_in = np.zeros_like(cls) if fitted else personality
    for rows, ids, mask in by_length(sentences, batch, device_of(first)):
        (vectors,) = to_tensors([personality[rows]], ids.device)
        outputs = [read_alone(teacher, ids, mask, vectors) for teacher in teachers]
        scores[rows] = mean_score([output.score for output in outputs]).cpu().numpy()
        cls[rows] = outputs[0].s.float().cpu().numpy()
        if fitted:
            taken_in[rows] = first.fit_personality(vectors).float().cpu().numpy()
    return Knowledge(scores, cls, taken_in)


def mean_score(scores: Sequence[Tensor]) -> Tensor:
    """The mean of several models' scores (B,), each held inside the range of labels."""
    return torch.stack([score.float().clamp(-SCORE_LIMIT, SCORE_LIMIT) for score in scores]).mean(dim=0)


def read_alone(teacher: Teacher, ids: Tensor, mask: Tensor, personality: Tensor) -> TeacherOutput:
    """The teacher's output for sentences (B, L) with no voice and no face."""
    B, device = len(ids), ids.device
    config = teacher.config
    missing = [torch.zeros(size, device=device) for n in (config.audio_features, config.face_features)
               for size in ((B, 1, n), (B, 1))]  # fmt: skip
    return teacher(ids, mask, *missing, personality)
