"""A larger student as the teacher of a smaller one: words alone, where all of its knowledge lies.

Its labels of composed samples would be no better than those that the composition knows, so stage 3 descends these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from psamf_edge.compile.distillation.knowledge import Knowledge, mean_score
from psamf_edge.compile.distillation.words import NOTHING_ELSE, Lesson, WordTeacher
from psamf_edge.compile.model import Student
from psamf_edge.compile.model.student import load_student
from psamf_edge.compile.training.device import Compute, device_of
from psamf_edge.compile.training.objective import Objective, score_objective
from psamf_edge.compile.training.reading import by_length
from psamf_edge.compile.training.text_stage import score_text_states
from psamf_edge.errors import UsageError


@dataclass(frozen=True)
class LargerStudents(WordTeacher):
    """One or several trained students, frozen and in evaluation mode, on the device of the training.

    What they score is averaged; the blocks, the hidden states and the personality vectors are the first one's.
    """

    students: Sequence[Student]
    lesson: Lesson = NOTHING_ELSE

    def check_sizes(self, audio_features: int, face_features: int) -> None:
        """Any will do: only words are learnt from a larger student."""

    def student(self, audio_features: int, face_features: int, text_blocks: int) -> Student:
        """One that begins with what the lesson names, or with some of the first student's text blocks and all of its
        fusion; 0 keeps all blocks.
        """
        begun = self.begun(audio_features, face_features, text_blocks)
        return begun or Student.from_student(self.students[0], audio_features, face_features, text_blocks or None)

    @torch.no_grad()
    def ask(self, sentences: Sequence[np.ndarray], batch: int = 64) -> Knowledge:
        """What the students know of different sentences."""
        width = self.students[0].config.bert.width
        scores = np.zeros(len(sentences), np.float32)
        cls, personality = (np.zeros((len(sentences), width), np.float32) for _ in range(2))
        for rows, ids, mask in by_length(sentences, batch, device_of(self.students[0])):
            with self.lesson.precision():
                states = [student.trunk(ids, mask) for student in self.students]  # (B, L, H) each
                outputs = [score_text_states(*each, mask) for each in zip(self.students, states, strict=True)]
            scores[rows] = mean_score([output.score[:, 0].float() for output in outputs]).cpu().numpy()
            cls[rows] = states[0][:, 0].float().cpu().numpy()
            personality[rows] = outputs[0].personality[:, 0].float().cpu().numpy()
        return Knowledge(scores, cls, personality)

    def of_composed(self, sentences: Sequence[np.ndarray]) -> Objective:
        """Stage 3's: that of the labels."""
        return score_objective


def open_larger(directories: Sequence[Path], compute: Compute, lesson: Lesson = NOTHING_ELSE) -> LargerStudents:
    """The students of weights directories.

    Raises:
        UsageError: a directory holds no student, or they do not share vocabulary and text width.
    """
    students = [load_student(directory).to(compute.device).requires_grad_(False) for directory in directories]
    shapes = {(student.config.bert.vocabulary, student.config.bert.width) for student in students}
    if len(shapes) > 1:
        raise UsageError("The students to learn from differ in vocabulary or text width; they must share them.")
    return LargerStudents(students, lesson)
