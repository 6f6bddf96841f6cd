"""A teacher's weights to a student's, as `psamf-edge distill` does with its defaults, before it is compiled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from psamf_edge.compile.files import atomic
from psamf_edge.compile.training.options import CommonOptions, DataOption
from psamf_edge.compile.training.record import RECORD
from psamf_edge.errors import UsageError

ORIGIN = "distilled-from.json"
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
        UsageError: no data, or the folder holds the student of another teacher.
    """
    chosen = data.chosen()
    origin = {
        "teacher_sha256": hashlib.sha256((teacher / "teacher.safetensors").read_bytes()).hexdigest(),
        "data": [str(path.resolve()) for path in ([chosen] if isinstance(chosen, Path) else chosen)],
    }
    _remember(folder, origin)
    if (folder / RECORD).is_file():
        log(f"{teacher} was distilled into {folder} before")
        return folder
    from psamf_edge.compile.distillation.settings import DistilSettings
    from psamf_edge.compile.distillation.source import open_source
    from psamf_edge.compile.training.student import train_student

    common = CommonOptions(None, tuple(assignments), False, "auto", 2, False)
    settings = common.settings(DistilSettings)
    log(f"distil {teacher} into {folder} ...")
    run = common.open_run(folder, settings)
    source = open_source([teacher], folder, run.compute, settings)
    train_student(chosen, source, parts, folder, settings, run, f"psamf-edge compile TEACHER {data.shown}")
    return folder


def _remember(folder: Path, origin: dict) -> None:
    path = folder / ORIGIN
    if not path.is_file():
        if folder.is_dir() and {file.name for file in folder.iterdir()} - {f"{ORIGIN}.new"}:  # which a kill leaves
            raise UsageError(f"{folder} holds something else than a distillation: name another folder with --student.")
        with atomic(path) as new:
            new.write_text(json.dumps(origin, indent=2) + "\n")
    elif json.loads(path.read_text(encoding="utf-8")) != origin:
        raise UsageError(
            f"{folder} holds the student of another teacher or other data: name another folder with"
            " --student, or remove it."
        )
