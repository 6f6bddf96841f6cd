"""What a user names on the command line to the list of clips that are meant."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# What cameras, phones, recorders and browsers name the files that psamf_edge.media reads. It is only looked for in
# folders: a file that is named itself is read whatever it is called.
VIDEO = ".mp4 .m4v .mov .mkv .webm .avi .flv .wmv .asf .mpg .mpeg .ts .mts .m2ts .3gp .ogv .gif"
AUDIO = ".wav .mp3 .m4a .aac .flac .ogg .oga .opus .aif .aiff .wma .amr"
IMAGE = ".jpg .jpeg .png .bmp .webp"
SUFFIXES = frozenset(f"{VIDEO} {AUDIO} {IMAGE}".split())
INFIX = ".sentiment"  # of the files that we write: talk.sentiment.png is no clip, and talk.sentiment.srt no transcript


def words(text: str | None) -> str | None:
    """An argument as the user typed it: UTF-8, where the locale says ASCII and Python kept the bytes as they were."""
    try:
        return text and os.fsencode(text).decode()
    except UnicodeError:  # no UTF-8 either: what cannot be read is replaced further on
        return text


def expand(names: Sequence[str]) -> list[Path | str]:
    """Every clip once, in the order named; what a folder or a pattern holds is sorted.

    Args:
        names: files, folders (searched with their subfolders for SUFFIXES) and patterns that the shell left alone.

    Returns:
        A path for each clip, and a sentence for each name that stands for none.
    """
    return list(dict.fromkeys(item for name in names for item in _expand_one(name)))


def _expand_one(name: str) -> Iterator[Path | str]:
    path = Path(name)
    if not name:  # as of a variable that is not set; to a path it would be the working folder
        yield "An empty name stands for no clip; name a file, a folder or a pattern."
        return
    # os.path's questions answer no where pathlib's raise: a folder that is locked, a name that is too long.
    if os.path.isdir(path):
        yield from _found(_media_in(path), f"The folder {name} holds no clip; looked for {' '.join(sorted(SUFFIXES))}.")
    elif not os.path.lexists(path) and glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(name, recursive=True))
        yield from _found([match for match in matches if os.path.isfile(match)], f"No file matches {name}.")
    else:
        yield path  # a missing file too: reading it says what is wrong with it


def _media_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if _is_clip(p))


def _is_clip(path: Path) -> bool:
    ours_or_hidden = path.stem.endswith(INFIX) or path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not ours_or_hidden and os.path.isfile(path)


def _found(paths: list[Path], otherwise: str) -> list[Path | str]:
    return [*paths] or [otherwise]
