"""What teachers change in the training of a student: its first weights, and what its stages descend.

Stage 1 (words) takes the teachers' scores, the CLS of the trunk and the personality vector. Stage 3 (composed samples,
text blocks frozen) takes the scores with all modalities present, and where the first teacher looks in voice and face.
Stage 2 has nothing to learn here: no teacher hears a voice as an emotion with a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from psamf_edge.compile.distillation.knowledge import Knowledge, ask, distinct, mean_score
from psamf_edge.compile.distillation.library import key_of_sentences
from psamf_edge.compile.distillation.losses import attention_divergence, mean_over_heads, score_distance
from psamf_edge.compile.distillation.settings import DistilSettings
from psamf_edge.compile.distillation.words import NOTHING_ELSE, Lesson, WordTeacher, add_terms
from psamf_edge.compile.model import Student
from psamf_edge.compile.model.teacher import Teacher, TeacherConfig, load_teacher
from psamf_edge.compile.personality.model import NAME as PERSONALITY
from psamf_edge.compile.personality.model import load_personality
from psamf_edge.compile.personality.vectors import cached_vectors
from psamf_edge.compile.training.device import Compute, to_tensors
from psamf_edge.compile.training.epochs import Loss
from psamf_edge.compile.training.fusion_stage import SUBSET_NAMES
from psamf_edge.compile.training.objective import Objective, Scored, score_objective
from psamf_edge.compile.training.reading import blocks_by_length
from psamf_edge.errors import UsageError

ALL = SUBSET_NAMES.index("all")  # the column of stage 3's subsets in which everything is present


@dataclass(frozen=True)
class Teaching(WordTeacher):
    """One or several teachers, frozen and in evaluation mode, on the device of the training.

    Args:
        teachers: what they score is averaged; hidden states and attention are the first one's.
        vectors: gives the personality vectors (N, Hp) of N different sentences, arrays of token ids.
        lesson: what the student begins with and further reads.
    """

    teachers: Sequence[Teacher]
    vectors: Callable[[Sequence[np.ndarray]], np.ndarray]
    lesson: Lesson = NOTHING_ELSE

    def check_sizes(self, audio_features: int, face_features: int) -> None:
        """Raise UsageError unless the teachers know such steps of voice and face."""
        config = self.teachers[0].config
        if (audio_features, face_features) != (config.audio_features, config.face_features):
            raise UsageError(
                f"The data has {audio_features} voice and {face_features} face features a step, the teacher was "
                f"trained with {config.audio_features} and {config.face_features}; distil with features of that kind."
            )

    def student(self, audio_features: int, face_features: int, text_blocks: int) -> Student:
        """One that begins with what the lesson names or the first teacher's text blocks; text_blocks 0 keeps all."""
        begun = self.begun(audio_features, face_features, text_blocks)
        return begun or Student.from_teacher(self.teachers[0], audio_features, face_features, text_blocks or None)

    def ask(self, sentences: Sequence[np.ndarray]) -> Knowledge:
        """What the teachers know of different sentences."""
        with self.lesson.precision():
            return ask(self.teachers, sentences, self.vectors(sentences), fitted=self.lesson.begin is None)

    def of_composed(self, sentences: Sequence[np.ndarray]) -> Objective:
        """Stage 3's objective over the rows of `sentences`."""
        different, own = distinct(sentences)
        personality = self.lesson.once(lambda: self.vectors(different))[own]

        def objective(scored: Scored, settings: DistilSettings) -> Loss:
            if not (settings.distil_composed or settings.distil_attention):
                return score_objective(scored, settings)
            (vectors,) = to_tensors([personality[scored.rows]], scored.labels.device)
            *inputs, present = to_tensors(scored.batch.arrays(), scored.labels.device)
            with torch.no_grad(), self.lesson.precision():
                taught = [teacher(*inputs, vectors, present[:, ALL]) for teacher in self.teachers]
            score = mean_score([each.score for each in taught])  # (B,)
            audio_mask, face_mask = inputs[3], inputs[5]  # (B, Ta), (B, Tv)
            first, output = taught[0], scored.output
            terms = {
                "composed": lambda: score_distance(output.score[:, ALL], score),
                "attention": lambda: (
                    attention_gap(output.audio_weights, first.audio_weights, audio_mask)
                    + attention_gap(output.face_weights, first.face_weights, face_mask)
                ),
            }
            return add_terms(score_objective(scored, settings), terms, settings)

        return objective


def attention_gap(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Divergence of the student's attention over T' strided steps from the teacher's over T steps.

    student (B, S, h, T'), teacher (B, h, T), mask (B, T) of the teacher's steps.
    """
    own = mean_over_heads(student[:, ALL])  # (B, T')
    given = to_strides(mean_over_heads(teacher)[:, : mask.shape[1]], own.shape[1])  # (B, T')
    return attention_divergence(own, given, (to_strides(mask, own.shape[1]) > 0).float())


def to_strides(steps: Tensor, count: int) -> Tensor:
    """Sums (B, T') of `count` equal stretches of steps (B, T), the last one filled up with zeros."""
    stride = -(-steps.shape[1] // count)
    return F.pad(steps, (0, stride * count - steps.shape[1])).unflatten(1, (count, stride)).sum(dim=2)


def open_teaching(
    directories: Sequence[Path], cache: Path, compute: Compute, lesson: Lesson = NOTHING_ELSE
) -> Teaching:
    """The teachers that `psamf-edge train teacher` wrote, with the personality encoder that they share.

    Args:
        directories: of one or more teachers.
        cache: folder for the personality vectors.
        compute: where the training runs.
        lesson: what the student is given beside the teachers.

    Raises:
        UsageError: a directory holds no teacher, or the teachers do not read the same tokens, features or personality.
    """
    teachers = [load_teacher(directory).to(compute.device).requires_grad_(False) for directory in directories]
    shared = [_shared(teacher.config, directory) for teacher, directory in zip(teachers, directories, strict=True)]
    for directory, of_this in zip(directories, shared, strict=True):
        differing = sorted(name for name, value in of_this.items() if value != shared[0][name])
        if differing:
            raise UsageError(
                f"{directory} and {directories[0]} differ in {' and '.join(differing)}; teachers of one student must "
                "share them."
            )
    encoder = load_personality(directories[0]).to(compute.device)

    def vectors(sentences: Sequence[np.ndarray]) -> np.ndarray:
        found = np.zeros((len(sentences), encoder.config.width), np.float32)
        for rows in blocks_by_length(sentences):
            block = [sentences[row] for row in rows]
            found[rows] = cached_vectors(encoder, block, cache / f"personality-{key_of_sentences(block)[:12]}.npz")
        return found

    return Teaching(teachers, vectors, lesson)


def _shared(config: TeacherConfig, directory: Path) -> dict[str, object]:
    """What must not differ between teachers, by name."""
    return {
        "vocabulary": config.bert.vocabulary,
        "text width": config.bert.width,
        "voice features": config.audio_features,
        "face features": config.face_features,
        "personality encoder": (directory / f"{PERSONALITY}.safetensors").read_bytes(),
    }
