"""Files that a user names for results: whether they can be written, before the work; and written whole, after it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from psamf_edge.errors import UsageError

MAX_LINKS = 40  # one to the next, as Linux follows them
# why a folder takes no new file, or a file no other in its place (EBUSY: it is mounted by itself, as into a container)
NOT_REPLACED = (errno.EACCES, errno.EROFS, errno.EBUSY)


def check_file(path: Path, inputs: Iterable[Path]) -> None:
    """Whether results can be written to a file, before minutes are spent on them.

    Args:
        path: what the user named.
        inputs: files that are read, and must not be replaced.

    Raises:
        UsageError: it is one of them, or cannot be written.
    """
    if str(path) == "-":
        raise UsageError("'-' names no file here: name one (./- is a file of that name).")
    if any(_is_same_file(path, given) for given in inputs):
        raise UsageError(f"{path} is read, and would be replaced; name another file to write to.")
    target = os.path.realpath(path)  # which does not raise over links that lead in a circle, as Path.resolve does
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise UsageError(f"{path} is a folder; name a file in it.")
    if not os.path.isdir(folder):
        raise UsageError(f"There is no folder {folder} to write {path.name} in; make it first.")
    try:
        if os.path.exists(path):  # also a pipe in /dev/fd, whose real path is none
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with contextlib.suppress(FileNotFoundError):
            os.stat(target)  # fails otherwise where the name is too long
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); name another file.") from error


def write_file(path: Path, content: str | bytes) -> None:
    """Write the whole file or nothing; where the path is a link, the file that it leads to. Raises OSError.

    A device, a pipe and a file that is open already, as /dev/stdout is, are written into; and so, at the price of not
    being whole at every moment, is a file that nothing can take the place of.
    """
    if (os.path.exists(path) and not os.path.isfile(path)) or _is_open_file(path):
        _write_into(path, content, os.O_APPEND)
        return
    if os.path.islink(path):
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(path, os.O_WRONLY))  # the system refuses some links: a stranger's in /tmp
        path = Path(os.path.realpath(path))
    try:
        replace_file(path, content)
    except OSError as error:
        if error.errno not in NOT_REPLACED or not os.path.isfile(path):
            raise
        _write_into(path, content, os.O_TRUNC)


def replace_file(path: Path, content: str | bytes) -> None:
    """Written under another name first, then renamed: a file that was there keeps its mode. Raises OSError."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with open(handle, "wb") as file:
            file.write(_encoded(content))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))  # mkstemp lets only its user read
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error  # the user knows no other name
        raise


def _write_into(path: Path, content: str | bytes, how: int) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | how), "wb") as file:
            file.write(_encoded(content))
    except OSError as error:  # what was written into does not know its name
        raise OSError(error.errno, error.strerror, str(path)) from error


def _is_same_file(path: Path, other: Path) -> bool:
    """Whether both name one plain file, in whatever letters the system takes for the same."""
    try:
        return os.path.isfile(path) and os.path.samefile(path, other)
    except (OSError, ValueError):  # the other is not there, or has a name that no file can have
        return False


def _is_open_file(path: Path) -> bool:
    """Whether the path stands for the number of an open file: a link in /proc, or a link to one."""
    for _ in range(MAX_LINKS):
        folder = os.path.realpath(path.parent)
        if f"{folder}/".startswith("/proc/"):
            return True
        if not os.path.islink(path):
            break
        path = Path(folder, os.readlink(path))
    return False


def _encoded(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _mode(path: Path) -> int:
    """Of the file that is there, which may be for few; else as any new file's."""
    if os.path.isfile(path) and not os.path.islink(path):
        return stat.S_IMODE(os.stat(path).st_mode) & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
