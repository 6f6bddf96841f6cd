"""Writes results as json, csv, srt, vtt, svg, png or html: `render([result], "json")`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psamf_edge.errors import PsamfError, UsageError
from psamf_edge.report.csv_writer import write_csv
from psamf_edge.report.html_writer import write_html
from psamf_edge.report.json_writer import write_json
from psamf_edge.report.png_writer import write_png
from psamf_edge.report.subtitles import write_srt, write_vtt
from psamf_edge.report.svg_writer import write_svg
from psamf_edge.report.terminal import summary_line
from psamf_edge.result import Result

__all__ = ["FORMATS", "Writer", "render", "summary_line"]


@dataclass(frozen=True)
class Writer:
    """One format. `write` gets results whose numbers are finite, exactly one unless `multi_clip`."""

    write: Callable[[Sequence[Result]], str | bytes]
    multi_clip: bool  # can one output hold several clips?


FORMATS: dict[str, Writer] = {
    "json": Writer(write_json, multi_clip=True),
    "csv": Writer(write_csv, multi_clip=True),
    "srt": Writer(write_srt, multi_clip=False),
    "vtt": Writer(write_vtt, multi_clip=False),
    "svg": Writer(write_svg, multi_clip=False),
    "png": Writer(write_png, multi_clip=False),
    "html": Writer(write_html, multi_clip=True),
}


def render(results: Sequence[Result], format: str) -> str | bytes:
    """Write the results in one of FORMATS: text to be encoded as UTF-8 with its line ends kept, or bytes for png.

    Raises:
        UsageError: no such format, or not exactly one clip for a format that holds one.
        MissingDependencyError: png without matplotlib.
        PsamfError: a number in a result is NaN or infinite.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no output format {format!r}; choose one of {', '.join(FORMATS)}.")
    writer = FORMATS[format]
    if len(results) != 1 and not writer.multi_clip:
        several = ", ".join(name for name, other in FORMATS.items() if other.multi_clip)
        raise UsageError(
            f"The format {format} holds one clip and {len(results)} were given; "
            f"write one file for each clip, or choose one of {several}."
        )
    for result in results:
        _refuse_non_finite(result)
    return writer.write(results)


def _refuse_non_finite(result: Result) -> None:
    numbers = {"score": result.score, **{f"timing_ms.{stage}": ms for stage, ms in result.timing_ms.items()}}
    for index, segment in enumerate(result.segments):
        numbers[f"segments[{index}].score"] = segment.score
        numbers[f"segments[{index}].confidence"] = segment.confidence
        for name, modality in segment.modalities.items():
            if modality.contribution is not None:
                numbers[f"segments[{index}].modalities.{name}.contribution"] = modality.contribution
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise PsamfError(
                f"The result for {result.clip!r} holds {number} as {name}, which is no measurement; "
                "nothing was written. Please report it with the clip and the bundle's name."
            )
