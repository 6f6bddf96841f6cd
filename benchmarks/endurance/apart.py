"""A section in a process of its own: what one holds on to must not be seen in the next."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def apart(section: Callable[..., dict], *arguments: object) -> dict:
    """The section's record, made in a new process with an empty temporary folder, and the seconds that it took."""
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, get_context("spawn"), _move_temporary_files, (folder,)) as pool,
    ):
        record = pool.submit(section, *arguments).result()
    return {"seconds": round(time.monotonic() - began), **record}


def _move_temporary_files(folder: str) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = folder
