"""One line about a clip for a person at a terminal."""

from __future__ import annotations

from psamf_edge.report.escape import printable
from psamf_edge.report.wording import counted, extent, verdict
from psamf_edge.result import Result


def summary_line(result: Result) -> str:
    """`talk.mp4: +1.2 positive, 3 utterances in 9.0 s, 1 warning`, without control characters or a line end."""
    parts = [
        verdict(result.score, result.label),
        extent(len(result.segments), result.duration_ms),
    ]
    if result.warnings:
        parts.append(counted(len(result.warnings), "warning"))
    return f"{printable(result.clip)}: {', '.join(parts)}"
