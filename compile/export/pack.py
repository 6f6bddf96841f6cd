"""Writing bundles: all files and a manifest, whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from psamf_edge.bundle import (
    MANIFEST,
    MAX_FILE_BYTES,
    SCHEMA,
    Bundle,
    EngineOrigin,
    PlanKernel,
    PlanSegment,
    Shapes,
    is_plain_name,
    open_bundle,
)
from psamf_edge.compile.files import sync, write_synced
from psamf_edge.compile.work import REPLACED, SCRATCH
from psamf_edge.errors import UsageError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@dataclass(frozen=True)
class BundleContent:
    """All that the manifest says, but for the files' own sizes and hashes. See `psamf_edge.bundle.Bundle`."""

    name: str
    target: str
    precision: str
    plan: tuple[PlanSegment | PlanKernel, ...]
    shapes: Shapes
    licence: str
    engines: EngineOrigin | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


def write_bundle(
    path: Path,
    content: BundleContent,
    files: Mapping[str, bytes],
    force: bool = False,
    beside: Path | None = None,
    on_whole: Callable[[str], None] = lambda manifest_sha256: None,
) -> Bundle:
    """Write a bundle beside `path`, sync it, read it back, and only then rename it into place.

    Args:
        path: the directory to make.
        content: the manifest.
        files: name to bytes, of every file.
        force: put it in the place of a bundle that is already there, by `exchange`.
        beside: folder on the same file system to write in first; None for the one that `path` is in.
        on_whole: called with the manifest's SHA-256 when all is written, before it gets its name.

    Returns:
        The bundle, opened and verified.

    Raises:
        UsageError: `path` exists and `force` is off or it is no bundle, or a file has a name or size not allowed.
    """
    check_free(path, force)
    for name, data in files.items():
        if not is_plain_name(name) or len(data) > MAX_FILE_BYTES:
            raise UsageError(f"{name} ({len(data)} bytes) cannot go into a bundle: no plain name, or too large.")
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    manifest = {"schema": SCHEMA, **asdict(content), "files": entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside or path.parent, prefix=SCRATCH) as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir()
        for name, data in files.items():
            write_synced(fresh / name, data)
        write_synced(fresh / MANIFEST, (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode())
        sync(fresh)
        bundle = open_bundle(fresh)
        bundle.verify()
        on_whole(bundle.manifest_sha256)
        if path.exists():
            exchange(fresh, path, Path(scratch + REPLACED))  # a directory cannot be renamed over one that is not empty
        else:
            os.rename(fresh, path)
        sync(path.parent)  # before the older bundle goes
    return open_bundle(path)


def check_free(path: Path, force: bool) -> None:
    """Raise UsageError unless a bundle may be written to `path`. Nothing but a bundle is ever replaced."""
    if os.path.lexists(path):
        if not force:
            raise UsageError(f"{path} exists: choose another name with -o, or replace it with --force.")
        if path.is_symlink() or not (path / MANIFEST).is_file():
            raise UsageError(f"{path} exists and is not a bundle: --force will not replace it, choose another name.")


def exchange(fresh: Path, path: Path, old: Path) -> None:
    """Let two directories change their names, in one step where the system can: Linux, on most file systems.

    Elsewhere it takes three. An error between them, or Ctrl-C, puts the older one back; after a kill it is found as
    `old`, from where the next run of the same output puts it back.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        call = ctypes.CDLL(None, use_errno=True).renameat2
        if call(AT_FDCWD, os.fsencode(fresh), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE) == 0:
            return
    try:
        os.rename(path, old)
        os.rename(fresh, path)
    except BaseException:
        if not os.path.lexists(path):
            os.rename(old, path)
        raise
    os.rename(old, fresh)
