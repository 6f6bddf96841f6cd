"""Which kind of teachers a distillation was given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psamf_edge.compile.distillation.larger import open_larger
from psamf_edge.compile.distillation.teaching import open_teaching
from psamf_edge.compile.training.device import Compute
from psamf_edge.compile.training.objective import Source
from psamf_edge.errors import UsageError


def open_source(directories: Sequence[Path], cache: Path, compute: Compute) -> Source:
    """Teachers or larger students, whichever the directories hold; `cache` is for what is computed once.

    Raises:
        UsageError: they hold both kinds, or neither.
    """
    holds_student = [(directory / "student.safetensors").is_file() for directory in directories]
    if all(holds_student):
        return open_larger(directories, compute)
    if any(holds_student):
        raise UsageError("Teachers and larger students were given together; distil from one kind.")
    return open_teaching(directories, cache, compute)
