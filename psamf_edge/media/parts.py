"""Recordings that were joined end to end with `cat`: the clock of each part is moved behind what was read before it.

Runs in the decoder child only.
"""

from __future__ import annotations

from collections import defaultdict, deque
from fractions import Fraction
from typing import Any

RESTARTING = {"mpegts", "mpeg"}  # made to be joined so; in other formats a time that goes back is damage
JUMP_US = 1_000_000  # MPEG's streams are never a second out of step
RUNNING = 2  # packets that must agree on a jump: one alone is a damaged timestamp


class Parts:
    """Moves packets of joined recordings onto the clock of the first.

    At a join the streams go back one after the other, within a few packets. The first of them settles where the new
    part begins; the others follow by the same shift, so that sound and pictures stay together.
    """

    def __init__(self) -> None:
        self._shift_us = 0  # of the newest part that any stream has come to
        self._shifts_us: defaultdict[int, int] = defaultdict(int)  # of the part that each stream is in
        self._latest: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=2 * RUNNING))  # as in the file

    def move(self, packet: Any, reached_us: int) -> None:
        """Change the times of the next packet. reached_us: where all before it ends, on the clock of the first part."""
        time_base, index = packet.stream.time_base, packet.stream.index
        stamp = packet.pts if packet.dts is None else packet.dts
        if stamp is None or not time_base:
            return
        latest = self._latest[index]
        latest.append(round(stamp * time_base * 1_000_000))
        before, after = list(latest)[:RUNNING], list(latest)[RUNNING:]
        if len(after) == RUNNING and max(after) + JUMP_US < min(before):
            if after[0] + self._shift_us + JUMP_US < reached_us:  # in that part, too, this was read before
                self._shift_us = reached_us - after[0]
            self._shifts_us[index] = self._shift_us
        shift = round(Fraction(self._shifts_us[index], 1_000_000) / time_base)
        if shift:
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
