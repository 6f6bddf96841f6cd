"""A teacher's weights to a student's, as `psamf-edge distill` does with its defaults, before it is compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from psamf_edge.compile.training.options import CommonOptions, DataOption
from psamf_edge.compile.training.record import RECORD
from psamf_edge.errors import UsageError

Log = Callable[[str], None]


def is_teacher(path: Path) -> bool:
    """Whether a directory holds what `psamf-edge train teacher` writes, and no student."""
    return (path / "teacher.safetensors").is_file() and not (path / "student.safetensors").is_file()


def distil_first(
    teacher: Path, data: DataOption, parts: Path, folder: Path, log: Log, assignments: Sequence[str] = ()
) -> Path:
    """Distil into `folder`, go on there after an interruption, or do nothing where it is finished.

    Args:
        teacher: its directory.
        data: what to distil with; as `psamf-edge distill` takes it.
        parts: weights directory with the face models and the vocabulary.
        folder: of the student's weights.
        assignments: settings that are not the default, NAME=VALUE.

    Raises:
        UsageError: no data; or the folder was begun with another teacher, other data, parts or settings, or holds
            something else.
    """
    chosen = data.chosen()
    from psamf_edge.compile.distillation.settings import DistilSettings
    from psamf_edge.compile.distillation.source import ingredients, open_source
    from psamf_edge.compile.training.made_of import remember
    from psamf_edge.compile.training.student import train_student
    from psamf_edge.compile.training.toml_settings import REMEMBERED
    from psamf_edge.compile.training.toml_settings import remember as remember_settings
    from psamf_edge.compile.training.training_data import remember_data

    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if there - {f"{REMEMBERED}.new"} and REMEMBERED not in there:  # the new one is what a kill leaves
        raise UsageError(f"{folder} holds something else than a distillation: name another folder with --student.")
    common = CommonOptions(None, tuple(assignments), False, "auto", 2, False)
    settings = common.settings(DistilSettings)
    if (folder / RECORD).is_file():  # a training that is not finished holds all of this against the folder by itself
        remember_settings(folder, settings)
        remember_data(folder, chosen, parts, settings)
        remember(folder, ingredients([teacher], "teacher", None, ()))
        log(f"{teacher} was distilled into {folder} before")
        return folder
    log(f"distil {teacher} into {folder} ...")
    run = common.open_run(folder, settings)
    source = open_source([teacher], folder, run.compute, settings)
    train_student(chosen, source, parts, folder, settings, run, f"psamf-edge compile TEACHER {data.shown}")
    return folder
