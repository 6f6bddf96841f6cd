"""Stage 1 of a distillation: what any kind of teacher gives a student to know of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.distillation.knowledge import Knowledge
from psamf_edge.compile.distillation.library import Library
from psamf_edge.compile.distillation.losses import hidden_distance, personality_distance, score_distance
from psamf_edge.compile.distillation.settings import DistilSettings
from psamf_edge.compile.model.student import Student, load_student
from psamf_edge.compile.training.device import to_tensors
from psamf_edge.compile.training.epochs import Loss
from psamf_edge.compile.training.made_of import Ingredient
from psamf_edge.compile.training.objective import Objective, Scored, score_objective


def holds_student(directory: Path) -> bool:
    """Whether these are the weights of a student."""
    return (directory / "student.safetensors").is_file()


@dataclass(frozen=True)
class Lesson:
    """What a distillation is given beside its teachers.

    Args:
        begin: checkpoint of the plain BERT, or weights of the student, that the student begins with; None: the first
            teacher's text blocks.
        sentences: without labels, arrays of token ids; the teachers' scores are their labels.
        cache: file of what the teachers know; None keeps nothing.
        key: of the teachers, for the cache.
        precision: under which the teachers read.
        once: gives in every process what a function gives in the main one, which alone reads and has the cache.
        made_of: the teachers and all of this, for the run folder.
    """

    begin: Path | None = None
    sentences: Sequence[np.ndarray] = ()
    cache: Path | None = None
    key: str = ""
    precision: Callable[[], AbstractContextManager] = nullcontext
    once: Callable[[Callable[[], Any]], Any] = lambda make: make()
    made_of: Mapping[str, Ingredient] = field(default_factory=dict)


NOTHING_ELSE = Lesson()


class WordTeacher:
    """The part that teachers and larger students share; a subclass has `lesson` and `ask`."""

    lesson: Lesson

    def made_of(self) -> Mapping[str, Ingredient]:
        """What the student's stages depend on beside the data."""
        return self.lesson.made_of

    def begun(self, audio_features: int, face_features: int, text_blocks: int) -> Student | None:
        """The student that begins with what the lesson names, if it names anything; text_blocks 0 keeps all."""
        directory, blocks = self.lesson.begin, text_blocks or None
        if directory is None:
            return None
        if holds_student(directory):
            return Student.from_student(load_student(directory), audio_features, face_features, blocks)
        return Student.from_bert(directory, audio_features, face_features, blocks)

    def ask(self, sentences: Sequence[np.ndarray]) -> Knowledge:
        """Let the teachers read N different sentences."""
        raise NotImplementedError

    @cached_property
    def library(self) -> Library:
        """What the teachers know, each sentence read once."""
        return Library(self.ask, self.lesson.cache, self.lesson.key)

    def known(self, sentences: Sequence[np.ndarray]) -> Knowledge:
        """What the teachers know of sentences (N, ...), in every process."""
        return self.lesson.once(lambda: self.library.of(sentences))

    @property
    def unlabelled(self) -> int:
        """Sentences without labels."""
        return len(self.lesson.sentences)

    def taught(self) -> list[TextSet]:
        """The sentences without labels, with the teachers' scores for labels."""
        sentences = list(self.lesson.sentences)
        if not sentences:
            return []
        return [TextSet("taught", sentences, self.lesson.once(lambda: self.library.of(sentences).scores))]

    def of_words(self, sentences: Sequence[np.ndarray]) -> Objective:
        """Stage 1's objective over the rows of `sentences`."""
        return words_objective(self.known(sentences))


def words_objective(known: Knowledge) -> Objective:
    """The labels, and what is known of each sentence: stage 1's objective over the same rows."""

    def objective(scored: Scored, settings: DistilSettings) -> Loss:
        rows = known.rows(scored.rows)
        score, cls, personality = to_tensors((rows.scores, rows.cls, rows.personality), scored.labels.device)
        output = scored.output
        terms = {
            "score": lambda: score_distance(output.score[:, 0], score),
            "hidden": lambda: hidden_distance(scored.hidden[:, 0], cls),
            "personality": lambda: personality_distance(output.personality[:, 0], personality),
        }
        return add_terms(score_objective(scored, settings), terms, settings)

    return objective


def add_terms(loss: Loss, terms: dict[str, Callable[[], Tensor]], settings: DistilSettings) -> Loss:
    """The loss of the labels and the weighted terms; each term that counts is logged, as `distil_` and its name."""
    total, shown = loss
    for name, term in terms.items():
        if weight := getattr(settings, f"distil_{name}"):
            value = term()
            total = total + weight * value
            shown = {**shown, f"distil_{name}": value.detach()}
    return total, shown
