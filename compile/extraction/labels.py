"""The label file of `extract`: one clip a row, as MMSA's label.csv has it or with a path of its own."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from psamf_edge.compile.data.feature_file import SPLITS
from psamf_edge.compile.data.mmsa import SEPARATOR
from psamf_edge.errors import UsageError
from psamf_edge.result import SCORE_LIMIT

RAW = "Raw"  # where MMSA keeps the clips, beside label.csv
SUFFIX = ".mp4"  # of all clips there


@dataclass(frozen=True)
class LabelledClip:
    """One row. line: on which it ends. id: "video$_$clip" where the file has both. label: in [-3, 3]."""

    line: int
    id: str
    split: str
    clip: Path
    text: str
    label: float


def read_labels(path: Path, clips: Path | None = None) -> list[LabelledClip]:
    """Read a CSV file (UTF-8) with the columns video_id and clip_id, or id; text; label; and mode or split.

    Args:
        path: the file. A column `clip`, if there is one, has paths relative to its folder.
        clips: the folder of the clips without such a path, video/clip.mp4 or id.mp4. Default: Raw beside the file.

    Raises:
        UsageError: no such file or folder, a column is missing, a cell is wrong, an id comes twice, or there is no row.
    """
    rows: dict[str, LabelledClip] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = set(reader.fieldnames or ())
            _check_columns(path, columns)
            folder = clips or path.parent / RAW
            if (clips or "clip" not in columns) and not folder.is_dir():
                raise UsageError(
                    f"There is no folder {folder} with the clips; name it with --clips, or add a column clip to {path}."
                )
            for raw in reader:
                row = _row(path, reader.line_num, raw, folder)
                if row.id in rows:
                    raise UsageError(f"{path}, line {row.line}: the id {row.id!r} is in line {rows[row.id].line} too.")
                rows[row.id] = row
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a CSV file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not CSV in UTF-8 ({error}); save it as such.") from error
    if not rows:
        raise UsageError(f"{path} has no rows below its header.")
    return list(rows.values())


def _check_columns(path: Path, columns: set[str]) -> None:
    ways = ({"id"}, {"video_id", "clip_id"}), ({"text"},), ({"label"},), ({"split"}, {"mode"})
    missing = [
        " or ".join(" and ".join(sorted(names, reverse=True)) for names in either)
        for either in ways
        if not any(names <= columns for names in either)
    ]
    if missing:
        raise UsageError(
            f"{path} lacks the column {', '.join(missing)}; it needs id (or video_id and clip_id), text, label, and "
            "split (or mode)."
        )


def _row(path: Path, line: int, raw: dict, folder: Path) -> LabelledClip:
    where = f"{path}, line {line}"
    if None in raw.values() or None in raw:
        raise UsageError(f"{where}: the row has not as many cells as the header.")
    cells = {name: value.strip() for name, value in raw.items()}
    clip_id = cells["id"] if "id" in cells else SEPARATOR.join(cells.get(name, "") for name in ("video_id", "clip_id"))
    names = clip_id.split(SEPARATOR)
    if not all(names) or len(names) > 2:
        raise UsageError(f"{where}: the id {clip_id!r} is none; write video{SEPARATOR}clip or a name.")
    split = cells.get("split") or cells.get("mode")
    if split not in SPLITS:
        raise UsageError(f"{where}: the split {split!r} is none of {', '.join(SPLITS)}.")
    try:
        label = float(cells["label"])
    except ValueError:
        label = float("nan")
    if not -SCORE_LIMIT <= label <= SCORE_LIMIT:  # false for NaN
        raise UsageError(
            f"{where}: the label {cells['label']!r} is no number from {-SCORE_LIMIT:g} to {SCORE_LIMIT:g}."
        )
    if cells.get("clip"):
        clip = path.parent / cells["clip"]
    else:
        if any(name == ".." or Path(name).name != name for name in names):
            raise UsageError(f"{where}: the id {clip_id!r} leads out of the folder of the clips; use plain names.")
        clip = folder.joinpath(*names[:-1], names[-1] + SUFFIX)
    return LabelledClip(line, clip_id, split, clip, cells["text"], label)
