"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write to; what it holds becomes `path` when the block ends without an error.

    What a kill leaves of it has one name, which the next run writes over. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    try:
        yield new
        sync(new)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    sync(path.parent)  # the rename as well


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Tensors as safetensors, to a path that `atomic` gave.

    The library writes under a name of its own beside the one that it is given, and a kill would leave that behind: it
    gets a folder, which the next run removes.
    """
    from safetensors.torch import save_file

    folder = path.with_name(path.name + ".folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file(tensors, folder / path.name, metadata=metadata)
    os.replace(folder / path.name, path)
    folder.rmdir()


def save_arrays(path: Path, **arrays: Any) -> None:
    """Arrays as .npz, by way of `atomic`."""
    import numpy as np

    with atomic(path) as new, new.open("wb") as file:
        np.savez(file, **arrays)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file, by way of `atomic`."""
    with atomic(target) as new:
        shutil.copyfile(source, new)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file, and get it onto the disk. Raises OSError, also where there is one already."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Get a file, or the names in a folder, onto the disk. Raises OSError."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot open a folder, and needs no sync of one
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
