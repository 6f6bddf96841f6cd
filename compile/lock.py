"""One process at a time for one output: a lock on a file in the folder where its unfinished work is kept."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TextIO

from psamf_edge.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "lock"


def take_lock(folder: Path, output: Path) -> TextIO:
    """Make the folder if it is not there, and lock it until the file that is returned is closed or the process ends.

    The folder, and the lock in it, may be removed before.

    Raises:
        UsageError: another process has it.
    """
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / LOCK
        file = open(path, "a")  # noqa: SIM115 (held by the caller)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise UsageError(
                f"Another process is making {output} just now: wait for it, or choose another name with -o."
            ) from error
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # whoever had it before has finished and removed it
