"""CSV (RFC 4180): one row a segment, times in integer milliseconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from psamf_edge.report.escape import csv_cell
from psamf_edge.report.wording import rounded
from psamf_edge.result import MODALITIES, Result

COLUMNS = (
    "clip", "start_ms", "end_ms", "text", "score", "label", "confidence",
    *(f"{name}_{column}" for name in MODALITIES for column in ("state", "contribution")),
)  # fmt: skip


def write_csv(results: Sequence[Result]) -> str:
    """A header and the rows of all clips. A value that does not exist (no words, no contribution) is an empty cell."""
    table = io.StringIO()
    writer = csv.writer(table)  # its default dialect is RFC 4180: commas, doubled quotes, CR LF
    writer.writerow(COLUMNS)
    for result in results:
        for segment in result.segments:
            writer.writerow(
                [
                    csv_cell(result.clip),
                    int(segment.start_ms),
                    int(segment.end_ms),
                    csv_cell(segment.text or ""),
                    rounded(segment.score),
                    segment.label,
                    rounded(segment.confidence),
                ]
                + [
                    cell
                    for name in MODALITIES
                    for cell in (segment.modalities[name].state, rounded(segment.modalities[name].contribution))
                ]
            )
    return table.getvalue()
