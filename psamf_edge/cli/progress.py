"""How far the work is, on stderr: one line that changes on a terminal, a plain line for each clip elsewhere."""

from __future__ import annotations

import sys
import time

from psamf_edge.cli.group import say
from psamf_edge.cli.streams import echo
from psamf_edge.report.escape import printable

INTERVAL_S = 0.1  # between two drawings: the eye follows, and a slow terminal keeps up
NAME_WIDTH = 50  # columns of a file name: the line must not wrap, or it cannot be drawn over
CLEAR_LINE = "\r\x1b[2K"


class Progress:
    """Shows nothing when quiet. Lines that stay go through `line`."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._draws = not quiet and sys.stderr.isatty()
        self._number, self._name, self._drawn_at = 0, "", 0.0

    def start(self, name: str) -> None:
        """The next clip begins."""
        self._number += 1
        self._name = printable(name)[-NAME_WIDTH:]
        self.update(0.0)

    def update(self, share: float) -> None:
        """So much of the clip is read, in [0, 1]."""
        now = time.monotonic()
        if self._draws and now - self._drawn_at >= INTERVAL_S:
            self._drawn_at = now
            echo(f"{CLEAR_LINE}[{self._number}/{self._total}] {self._name} {share:4.0%}", nl=False)

    def line(self, message: str) -> None:
        """Something to keep, unless quiet."""
        self.clear()
        if not self._quiet:
            say(message)

    def clear(self) -> None:
        """Take the changing line away, so that something else can be printed."""
        if self._draws and self._drawn_at:
            self._drawn_at = 0.0
            echo(CLEAR_LINE, nl=False)
