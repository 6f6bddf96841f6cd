"""Words with times: the one shape that subtitle files, embedded captions and speech recognition are brought to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

FLASH_MS = 50  # no line is said in so little; rolling captions show a finished one for 10 ms before the next moves in
TOUCH_MS = 10  # between captions that follow each other at once: some writers end one a millisecond early


@dataclass(frozen=True)
class TimedText:
    """What is said between two moments, in integer milliseconds from the start of the clip."""

    start_ms: int
    end_ms: int
    text: str


def unroll(captions: Iterable[TimedText]) -> tuple[list[TimedText], list[str]]:
    """Rolling captions with each line where it comes first, and a warning if lines were left out.

    Such captions (YouTube's automatic ones, live television) show the line before above the new one, so that each line
    stands in two or three of them. A line is left out if the caption before showed it up to the moment where this one
    begins, and a new line comes below it. A caption with no new line is left out if it only flashes up, or has an empty
    row where the next line will be. Somebody who says "No." and again "No." has said it twice.

    Args:
        captions: anything with `start_ms`, `end_ms` and `text`, a line of which is a row on the screen.
    """
    kept, left_out = [], 0
    shown: list[str] = []  # the lines of the caption before
    until_ms = 0
    for caption in sorted(captions, key=lambda c: c.start_ms):
        rows = [" ".join(row.split()) for row in caption.text.split("\n")]
        lines = [row for row in rows if row]
        old = 0
        if caption.start_ms <= until_ms + TOUCH_MS:
            waits = abs(caption.end_ms - caption.start_ms) <= FLASH_MS or len(lines) < len(rows)
            most = min(len(shown), len(lines) if waits else len(lines) - 1)
            old = next((count for count in range(most, 0, -1) if shown[-count:] == lines[:count]), 0)
        kept.append(TimedText(caption.start_ms, caption.end_ms, "\n".join(lines[old:])))
        left_out += old
        shown, until_ms = lines, max(caption.start_ms, caption.end_ms)
    said = f"The captions roll: {left_out} line(s) that were shown again were read once."
    return kept, [said] if left_out else []


def repair_times(captions: Iterable[TimedText]) -> tuple[list[TimedText], list[str]]:
    """Captions in order, without overlap, and one warning for each kind of repair that was needed.

    Reversed times are swapped. Captions that start together (two speakers) become one. One that runs into the next ends
    where the next begins. Captions without words are left out. Takes anything with `start_ms`, `end_ms` and `text`.
    """
    captions = [TimedText(c.start_ms, c.end_ms, " ".join(c.text.split())) for c in captions if c.text.strip()]
    straight = [c if c.start_ms <= c.end_ms else TimedText(c.end_ms, c.start_ms, c.text) for c in captions]
    reversed_count = sum(a is not b for a, b in zip(captions, straight, strict=True))
    overlap_count = 0
    kept: list[TimedText] = []
    for start, group in groupby(sorted(straight, key=lambda c: c.start_ms), key=lambda c: c.start_ms):
        together = list(group)
        if kept and start < kept[-1].end_ms:
            kept[-1] = replace(kept[-1], end_ms=start)
            overlap_count += 1
        overlap_count += len(together) - 1
        kept.append(TimedText(start, max(c.end_ms for c in together), " ".join(c.text for c in together)))
    warnings = []
    if reversed_count:
        warnings.append(f"{reversed_count} caption(s) ended before they began; their times were swapped.")
    if overlap_count:
        warnings.append(f"{overlap_count} caption(s) overlapped; each was ended where the next one begins.")
    return kept, warnings
