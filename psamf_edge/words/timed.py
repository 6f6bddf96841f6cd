"""Words with times: the one shape that subtitle files, embedded captions and speech recognition are brought to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby


@dataclass(frozen=True)
class TimedText:
    """What is said between two moments, in integer milliseconds from the start of the clip."""

    start_ms: int
    end_ms: int
    text: str


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
