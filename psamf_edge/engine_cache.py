"""The user's own cache of engines, which survives other processes, kills, full disks and strangers.

An engine is native code, so nothing is taken from the cache but what the cache itself has put there: the directory and
every file belong to the user and nobody else may write them, and an index holds the SHA-256 of each. What is found
otherwise is refused, with the reason. The index guards against damage and against files dropped in; whoever can write
as this user can write the index too, and needs no cache to do harm.

Files are written to a temporary name, synced and renamed, so that a kill leaves either the old or the new. Writers hold
a lock, readers need none. Where nothing can be written, what is there is still read, and `problem` says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from psamf_edge.errors import IntegrityError

VARIABLE = "PSAMF_EDGE_CACHE"
LIMIT = 2 << 30  # bytes of all files; the engines of the largest trunk foreseen, BERT-base in float32, have 0.5 GB
MAX_FILE = 1 << 30  # as psamf_edge.bundle.MAX_FILE_BYTES
MAX_INDEX = 1 << 20  # an entry has 600 bytes, and the limit holds some hundred engines
INDEX, LOCK, SCRATCH = "index.json", "lock", ".part-"
POLL = 0.1  # s between two tries for the lock, where the system cannot wait for it


def default_root() -> Path:
    """PSAMF_EDGE_CACHE, else `psamf-edge` in the user's directory for caches. Raises RuntimeError: there is no home."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "psamf-edge" / "cache"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))  # which has to be absolute, says its specification
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "psamf-edge"


def key_of(made_for: Mapping[str, Any]) -> str:
    """The name of what was made for just these: SHA-256 over them, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(made_for, sort_keys=True).encode()).hexdigest()


class EngineCache:
    """Bytes by name, in `ROOT/engines`. Used from several processes and threads at once.

    Args:
        root: the directory; None for `default_root`.
        limit: the most bytes of all files. What was not used for longest goes first.
    """

    def __init__(self, root: Path | None = None, limit: int = LIMIT) -> None:
        self.problem: str | None = None  # why nothing is kept, once something could not be
        self._limit = limit
        self._root: Path | None = None  # None: there is nothing to read either
        try:
            self.root = root or default_root()
            self._root = self._open()
        except (OSError, RuntimeError) as error:
            self._fail(error)

    def get(self, name: str) -> bytes | None:
        """The content, or None if there is none.

        Raises:
            IntegrityError: there is something under this name, and it is not what the cache has put there.
        """
        if self._root is None:
            return None
        content = self._trusted(name)
        if content is not None:
            with contextlib.suppress(OSError):
                self._mark_used(name)
        return content

    def refused(self) -> list[str]:
        """Why each file is not taken that is there and would not be; they are built again when they are needed."""
        found = []
        for name in [] if self._root is None else sorted(os.listdir(self._root)):
            if name not in (INDEX, LOCK) and not name.startswith(SCRATCH):
                try:
                    self._trusted(name)
                except IntegrityError as error:
                    found.append(str(error))
        return found

    def _trusted(self, name: str) -> bytes | None:
        try:
            content = self._read(name, MAX_FILE)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise IntegrityError(f"{self._root / name} cannot be read ({error.strerror})") from error
        entry = self._index().get(name)
        if entry is None:
            raise IntegrityError(f"{self._root / name} is not one that this cache has written")
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise IntegrityError(f"{self._root / name} is damaged: it does not have the SHA-256 of the cache's index")
        return content

    def made_for(self) -> list[dict[str, Any]]:
        """What the entries were made for, as `put` was told."""
        return [] if self._root is None else [dict(entry["made_for"]) for entry in self._index().values()]

    def put(self, name: str, content: bytes, made_for: Mapping[str, Any]) -> None:
        """Keep the content, unless it passes the limit. Call it with the lock held. `problem` says what else fails."""
        if self.problem is not None or len(content) > min(self._limit, MAX_FILE):
            return
        try:
            index = self._index()
            self._make_room(index, name, len(content))
            self._write(name, content)
            self._mark_used(name)
            index[name] = {"sha256": hashlib.sha256(content).hexdigest(), "made_for": dict(made_for)}
            self._write(INDEX, json.dumps(index, indent=1).encode())
        except OSError as error:
            self._fail(error)

    @contextlib.contextmanager
    def lock(self, wait: bool = True) -> Iterator[bool]:
        """Be the only writer, in this process and in others. A process that ends, however it ends, gives the lock up.

        Gives whether it is held: not if it is taken and `wait` is off, nor if the cache cannot be written.
        """
        descriptor = None
        if self.problem is None:
            try:
                descriptor = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
                if not _try_lock(descriptor, wait):
                    os.close(descriptor)
                    descriptor = None
            except OSError as error:
                self._fail(error)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)  # which unlocks it

    def folder(self, name: str) -> Path | None:
        """A directory for a library that writes its own files: the user's alone, as the cache; what it holds is neither
        watched nor counted. None if there can be none: `problem` then says why."""
        if self.problem is not None:
            return None
        try:
            return _own_directory(_own_directory(self.root / "libraries") / name)
        except OSError as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        where = getattr(self, "root", "a home directory")
        self.problem = (
            f"The engine cache {where} cannot be written ({reason}), so that engines are built at every start: set"
            f" {VARIABLE} to a directory of your own with room in it."
        )

    def _open(self) -> Path:
        """The directory, made if it is not there. Raises OSError: it cannot be made, or is not the user's own."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(self.root, os.stat(self.root))
        return _own_directory(self.root / "engines")

    def _read(self, name: str, limit: int) -> bytes:
        """A file of the cache. Raises OSError, or IntegrityError where it is not the user's own or not plain."""
        path = self._root / name
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
                raise IntegrityError(f"{path} is not a plain file of at most {limit} bytes")
            try:
                _check_owner(path, found)
            except OSError as error:
                raise IntegrityError(str(error)) from error
            return file.read(limit)

    def _index(self) -> dict[str, dict[str, Any]]:
        """Of each name its hash and what it was made for; empty if there is no index, or none that can be trusted."""
        try:
            index = json.loads(self._read(INDEX, MAX_INDEX))
            return {
                name: {"sha256": str(entry["sha256"]), "made_for": dict(entry["made_for"])}
                for name, entry in index.items()
            }
        except (OSError, IntegrityError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def _make_room(self, index: dict[str, dict[str, Any]], name: str, size: int) -> None:
        """Delete what a kill has left behind, what no index knows, and then what was not used for longest."""
        kept: list[tuple[float, int, str]] = []
        for file in os.scandir(self._root):
            if file.name in (INDEX, LOCK) or not file.is_file(follow_symlinks=False):
                continue
            if file.name.startswith(SCRATCH) or file.name not in index:
                os.unlink(file.path)
            elif file.name != name:
                found = file.stat(follow_symlinks=False)
                kept.append((found.st_mtime, found.st_size, file.name))
        total = size + sum(length for _, length, _ in kept)
        for _, length, oldest in sorted(kept):
            if total <= self._limit:
                break
            os.unlink(self._root / oldest)
            total -= length
        present = {file for _, _, file in kept if (self._root / file).exists()}
        for gone in set(index) - present:
            del index[gone]

    def _mark_used(self, name: str) -> None:
        """Make this the last one to go, whatever the clock says: a device without a battery begins again in 1970."""
        newest = max(file.stat(follow_symlinks=False).st_mtime_ns for file in os.scandir(self._root))
        used = max(time.time_ns(), newest + 1)
        os.utime(self._root / name, ns=(used, used))

    def _write(self, name: str, content: bytes) -> None:
        scratch = self._root / f"{SCRATCH}{os.getpid()}-{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            with open(os.open(scratch, flags, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self._root / name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            raise
        if hasattr(os, "O_DIRECTORY"):  # Windows cannot open a directory, and needs no sync of one
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _own_directory(path: Path) -> Path:
    """Make it if it is not there. Raises OSError: it cannot be made, or is a link or somebody else's."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{path} is not a directory")
    _check_owner(path, found)
    return path


def _check_owner(path: Path, found: os.stat_result) -> None:
    """Raise OSError unless the user owns it and nobody else may write it. Windows keeps the user's directories so."""
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid != os.geteuid():
        raise OSError(f"{path} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{path} can be written by others: `chmod go-w {path}`")


def _try_lock(descriptor: int, wait: bool) -> bool:
    """Lock an open file. Raises OSError: this file system has no locks."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        while True:  # LK_LOCK gives up after ten seconds, and a build may take minutes
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
                time.sleep(POLL)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
