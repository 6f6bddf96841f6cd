"""The CSV file of `evaluate`: one utterance a row, with its label."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from psamf_edge.errors import UsageError
from psamf_edge.result import SCORE_LIMIT

NEEDED = ("id", "label")
SOURCES = ("clip", "text")  # at least one of the two columns, and in each row at least one of the two cells


@dataclass(frozen=True)
class Row:
    """One labelled utterance. clip: its path; None and text None stand for empty cells. label: in [-3, 3]."""

    line: int  # on which the row ends
    id: str
    clip: Path | None
    text: str | None
    label: float


def read_rows(path: Path, split: str | None = None) -> list[Row]:
    """Read a CSV file (RFC 4180, UTF-8, with or without BOM) with the columns id, label, and clip or text or both.

    Args:
        path: the file. Clips are relative to its folder. Other columns are ignored.
        split: keep only the rows whose column `split` says this.

    Raises:
        UsageError: no such file, a column is missing or there twice, a row is cut short, a label is not in [-3, 3], or
            no row is left.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or [], split)
            rows = [_row(path, reader.line_num, raw) for raw in reader if split is None or raw.get("split") == split]
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a CSV file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not CSV in UTF-8 ({error}); save it as such.") from error
    if not rows:
        raise UsageError(
            f"{path} has no rows" + (" below its header." if split is None else f" with the split {split!r}.")
        )
    return rows


def _check_columns(path: Path, columns: list[str], split: str | None) -> None:
    missing = [name for name in (*NEEDED, *(["split"] if split is not None else [])) if name not in columns]
    if not set(SOURCES) & set(columns):
        missing.append(" or ".join(SOURCES))
    if twice := [name for name in (*NEEDED, *SOURCES, "split") if columns.count(name) > 1]:
        raise UsageError(f"{path} has the column {', '.join(twice)} more than once; leave one of each.")
    if missing:
        raise UsageError(
            f"{path} lacks the column {', '.join(missing)}; its header must name id, label, and clip or text or both."
        )


def _row(path: Path, line: int, raw: dict) -> Row:
    if None in raw.values() or None in raw:
        raise UsageError(f"{path}, line {line}: the row has not as many cells as the header.")
    try:
        label = float(raw["label"])
    except ValueError:
        label = float("nan")
    if not -SCORE_LIMIT <= label <= SCORE_LIMIT:  # false for NaN
        raise UsageError(
            f"{path}, line {line}: the label {raw['label']!r} is no number from {-SCORE_LIMIT:g} to {SCORE_LIMIT:g}."
        )
    clip, text = (raw.get(name, "").strip() for name in SOURCES)
    return Row(line, raw["id"], path.parent / clip if clip else None, text or None, label)
