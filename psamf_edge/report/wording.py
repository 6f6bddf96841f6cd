"""How numbers and times are said, the same in every format."""

from __future__ import annotations

CLOCK_FROM_MS = 120_000  # beyond two minutes people count in minutes


def rounded(value: float | None) -> float | None:
    """Four decimals, finer than any score is known; never -0.0. None stays None."""
    return None if value is None else round(float(value), 4) + 0.0


def signed(value: float) -> str:
    """`+1.8`, `-0.4`, `+0.0`: one decimal and always a sign."""
    return f"{round(float(value), 1) + 0.0:+.1f}"


def verdict(score: float, label: str) -> str:
    """`+1.8 positive`."""
    return f"{signed(score)} {label}"


def counted(count: int, noun: str) -> str:
    """`1 utterance`, `3 utterances`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def extent(utterances: int, duration_ms: int) -> str:
    """`3 utterances in 9.0 s`; without the time for pictures and for words alone, which have none."""
    size = counted(utterances, "utterance")
    return f"{size} in {seconds(duration_ms)}" if duration_ms else size


def seconds(ms: int) -> str:
    """`9.0 s` up to two minutes, then as a clock."""
    return f"{ms / 1000:.1f} s" if ms < CLOCK_FROM_MS else clock(ms)


def clock(ms: float) -> str:
    """`2:30` or `1:02:30`."""
    minutes, second = divmod(round(ms / 1000), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def timestamp(ms: int, decimal_mark: str) -> str:
    """`00:01:02,345`: the time of a subtitle, with a comma in SubRip and a point in WebVTT."""
    whole, thousandths = divmod(int(ms), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{decimal_mark}{thousandths:03}"
