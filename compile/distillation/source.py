"""Which kind of teachers a distillation was given, and whether its terms can be taken between these sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from psamf_edge.compile.distillation.larger import open_larger
from psamf_edge.compile.distillation.library import key_of, key_of_sentences
from psamf_edge.compile.distillation.settings import DistilSettings
from psamf_edge.compile.distillation.teaching import Teaching, open_teaching
from psamf_edge.compile.distillation.words import Lesson, holds_student
from psamf_edge.compile.model.pretrained import ENCODER_FILES, read_config
from psamf_edge.compile.model.storage import read_sizes
from psamf_edge.compile.model.student import StudentConfig
from psamf_edge.compile.personality.model import NAME as PERSONALITY
from psamf_edge.compile.training.device import Compute
from psamf_edge.compile.training.made_of import NOTHING, Ingredient
from psamf_edge.compile.training.objective import Source
from psamf_edge.errors import UsageError

KNOWLEDGE = "knowledge.npz"  # in the run folder


def open_source(
    directories: Sequence[Path],
    cache: Path,
    compute: Compute,
    settings: DistilSettings,
    begin: Path | None = None,
    sentences: Sequence[np.ndarray] = (),
) -> Source:
    """Teachers or larger students, whichever the directories hold.

    Args:
        directories: of one or more of one kind.
        cache: folder for what is computed once.
        compute: where the training runs.
        settings: of the distillation.
        begin: checkpoint of the BERT, or weights of the student, that the student begins with, in place of the first
            teacher's text blocks.
        sentences: without labels, arrays of token ids.

    Raises:
        UsageError: the directories hold both kinds, or neither; or a term compares vectors of different widths.
    """
    students = [holds_student(directory) for directory in directories]
    if any(students) and not all(students):
        raise UsageError("Teachers and larger students were given together; distil from one kind.")
    kind = "student" if students[0] else "teacher"
    files = [directory / f"{kind}.safetensors" for directory in directories]
    lesson = Lesson(
        begin,
        sentences,
        cache / KNOWLEDGE if compute.is_main else None,
        key_of([path for path in files if path.is_file()]) + (" as it is" if begin else " taken in"),
        lambda: compute.autocast(settings.bfloat16),
        compute.once,
        ingredients(directories, kind, begin, sentences),
    )
    source = (
        open_larger(directories, compute, lesson)
        if kind == "student"
        else open_teaching(directories, cache, compute, lesson)
    )
    if begin is not None:
        check_widths(source, text_width(begin), settings)
    return source


def ingredients(
    directories: Sequence[Path], kind: str, begin: Path | None, sentences: Sequence[np.ndarray]
) -> dict[str, Ingredient]:
    """What a distillation is given beside the data. The teachers count in their order: the first one gives the most."""
    weights = (f"{kind}.safetensors", f"{PERSONALITY}.safetensors")
    files = {
        f"{number} {name}": directory / name
        for number, directory in enumerate(directories)
        for name in weights
        if (directory / name).is_file()
    }
    names = ", ".join(directory.resolve().name for directory in directories)
    further = Ingredient(f"{len(sentences)} different ones", key_of_sentences(sentences)) if sentences else NOTHING
    given = {"TEACHERS": Ingredient.of_files(names, files), "--sentences": further, "--begin": NOTHING}
    if begin is not None:
        of_begin = ("student.safetensors",) if holds_student(begin) else ENCODER_FILES
        given["--begin"] = Ingredient.of_folder(begin, *of_begin)
    return given


def text_width(begin: Path) -> int:
    """Of the checkpoint of a BERT, or of the weights of a student; neither's weights are read."""
    if holds_student(begin):
        return StudentConfig.from_dict(read_sizes(begin, "student")).bert.width
    return read_config(begin).width


def check_widths(source: Source, width: int, settings: DistilSettings) -> None:
    """A student whose text blocks are not the teacher's can be held against its vectors only if these are as wide.

    Raises:
        UsageError: the sentence names the setting that must be 0.
    """
    if isinstance(source, Teaching):
        config = source.teachers[0].config
        widths = {"hidden": config.bert.width, "personality": config.personality_width or config.bert.width}
    else:
        text = source.students[0].config.bert.width
        widths = {"hidden": text, "personality": text}
    for term, of_teacher in widths.items():
        if getattr(settings, f"distil_{term}") and of_teacher != width:
            raise UsageError(
                f"The term distil_{term} compares vectors of {width} numbers in the student with {of_teacher} in the "
                f"teacher; leave it out with --set distil_{term}=0."
            )
