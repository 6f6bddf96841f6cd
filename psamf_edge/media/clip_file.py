"""The file that holds a clip: looked at, opened, and looked at again."""

from __future__ import annotations

import json
import os
import re
import stat

from psamf_edge.errors import InputError


def open_clip(path: str | os.PathLike[str], most_bytes: int) -> tuple[str, int]:
    """The clip's name for messages, quoted, with control characters escaped, and its descriptor; or InputError."""
    text = os.fspath(path)
    name = json.dumps(text, ensure_ascii=False)
    try:
        _check(name, os.stat(text), most_bytes)  # before it is opened: to open a device is to use it
        descriptor = os.open(text, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
            raise InputError(f"{name} is an address; only local files are read: download it first.") from error
        raise InputError(f"{name} does not exist; check the path.") from error
    except PermissionError as error:
        raise InputError(f"{name} may not be read by this user; change its permissions.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be opened ({error}); check the path and its permissions.") from error
    try:
        _check(name, os.fstat(descriptor), most_bytes)  # what was opened, if the name was given to something else since
    except BaseException:
        os.close(descriptor)
        raise
    return name, descriptor


def _check(name: str, status: os.stat_result, most_bytes: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} is a directory; name the media files in it.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is a pipe, socket or device; save the recording to a file first.")
    if status.st_size == 0:
        raise InputError(f"{name} is empty; copy or record it again.")
    if status.st_size > most_bytes:
        raise InputError(
            f"{name} has {status.st_size} bytes; at most {most_bytes} are read: cut it, convert it, or raise the limit "
            "bytes."
        )
