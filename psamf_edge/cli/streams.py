"""Standard streams that are closed, full or gone: no result is lost over them, and no other file takes their place."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

import click

from psamf_edge.errors import UsageError


def replace_closed() -> None:
    """Put the null device where stdin, stdout or stderr is closed.

    The next file that is opened would get the number, and with it whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)


def echo(text: str, nl: bool = True) -> None:
    """Text on stderr. Where nobody can read it, the work goes on."""
    with contextlib.suppress(OSError):
        click.echo(text, nl=nl, err=True)


def check_stdout(instead: str = "") -> None:
    """Raises UsageError where there is none. instead: what the user may do beside opening it."""
    if sys.stdout is None:
        raise UsageError(f"There is no standard output, it is closed; open it{instead}.")


def write_stdout(content: str | bytes) -> None:
    """Bytes as they are, text as UTF-8 with its own line ends, whatever the terminal's encoding. Raises OSError."""
    check_stdout()
    rest = memoryview(content.encode() if isinstance(content, str) else content)
    sys.stdout.flush()
    try:
        while rest:
            written = sys.stdout.buffer.write(rest)  # where Python does not buffer (-u), perhaps only a part
            if written is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            rest = rest[written:]
        sys.stdout.buffer.flush()
    except OSError:
        _drop_stdout()
        raise


def _drop_stdout() -> None:
    """Let what is still buffered go nowhere: Python would try to write it once more at exit, and say so at length."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a stdout that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
