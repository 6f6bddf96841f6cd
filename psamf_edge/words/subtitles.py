"""Readers of the text files that lie beside a clip: SubRip (.srt), WebVTT (.vtt) and plain text (.txt)."""

from __future__ import annotations

import codecs
import errno
import html
import os
import re
import stat
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from psamf_edge.errors import InputError, UsageError
from psamf_edge.words.timed import TimedText, repair_times, unroll

MAX_BYTES = 5 * 2**20  # a ten-hour talk is about 1 MB of captions; more is not a transcript
SUFFIXES = (".srt", ".vtt", ".txt")  # in the order in which a clip's neighbours are tried

_TIME = r"(?:([0-9]{1,4}):)?([0-9]{1,2}):([0-9]{1,2})(?:[.,]([0-9]{1,9}))?"  # some write microseconds
_ARROW_LINE = re.compile(rf"\s*{_TIME}\s*--?>\s*{_TIME}(?:\s.*)?")  # what follows is placement, of no use here
# <i>, </font>, <c.yellow>, <v Ann>, <00:01.500> and {\an8}; but "I <3 you" and "a < b" are words.
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[0-9:.]+>|\{\\[^{}]*\}")
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_SILENT_BLOCK = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")


@dataclass(frozen=True)
class TextFile:
    """What a file says. timed: empty for plain text. text: all words in order, None when there are none."""

    timed: list[TimedText]
    text: str | None
    warnings: list[str] = field(default_factory=list)


def read_text_file(path: Path) -> TextFile:
    """Read a .srt, .vtt or .txt file, mending what can be mended and saying so.

    Raises:
        UsageError: there is no file at `path`.
        InputError: another suffix, not readable, larger than MAX_BYTES, not text, or subtitles without one caption.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} is not a transcript: its name must end in {', '.join(SUFFIXES)}.")
    if not _is_file(path):
        raise UsageError(f"There is no transcript file {path}; give the path of a {', '.join(SUFFIXES)} file.")
    content, warnings = _decode(path)
    if suffix == ".txt":
        return TextFile([], " ".join(content.split()) or None, warnings)
    cues, rolled = unroll(_cues(content.splitlines(), blank_ends_cue=suffix == ".vtt"))
    if not cues and not content.startswith("WEBVTT"):  # a header alone is a valid file that says nothing
        raise InputError(f"{path} holds no caption: a line such as 00:00:01,000 --> 00:00:02,500 must precede each.")
    timed, repairs = repair_times(cues)
    warnings += [f"{path.name}: {remark}" for remark in rolled + repairs]
    return TextFile(timed, " ".join(c.text for c in timed) or None, warnings)


def sidecars(clip: Path) -> list[Path]:
    """Where the words of a clip may lie beside it: SUFFIXES in their order, each also in capitals, as cameras write."""
    return [clip.with_suffix(suffix) for each in SUFFIXES for suffix in (each, each.upper())] if clip.name else []


def _is_file(path: Path) -> bool:
    """Whether there is a plain file. Raises InputError where this user may not know."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # pathlib's is_file raises or not as the version of Python has it
    except ValueError:  # a name that no file can have
        return False
    except OSError as error:
        if error.errno in _NO_FILE:
            return False
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _decode(path: Path) -> tuple[str, list[str]]:
    """The file as text, and a warning when its encoding had to be guessed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is larger than the {MAX_BYTES} bytes allowed for a transcript; split it.")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), []
    if b"\0" in data:
        raise InputError(f"{path} is not a text file: it contains zero bytes; save it as UTF-8 text.")
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), [f"{path.name} is not UTF-8; it was read as Windows-1252."]


def _cues(lines: list[str], blank_ends_cue: bool) -> list[TimedText]:
    """Captions between the time lines, with their rows.

    WebVTT ends one at an empty line, not at one of spaces. SubRip files in the wild hold blank lines of either kind.
    """
    arrows = []
    silent = False  # inside a comment or a style sheet
    for i, line in enumerate(lines):
        if not line.strip():
            silent = False
        elif i == 0 or not lines[i - 1].strip():
            silent = bool(_SILENT_BLOCK.match(line))
        if not silent and (match := _ARROW_LINE.fullmatch(line)):
            arrows.append((i, match))
    cues = []
    for (i, match), (following, _) in pairwise([*arrows, (len(lines), None)]):
        body = lines[i + 1 : following]
        if blank_ends_cue and "" in body:
            body = body[: body.index("")]
        elif following < len(lines) and len(body) > 1 and body[-1].strip().isdecimal():
            body.pop()  # the number of the next caption
        if not blank_ends_cue:
            body = [line for line in body if line.strip()]
        text = html.unescape(_MARKUP.sub("", "\n".join(body)))
        cues.append(TimedText(_milliseconds(*match.group(1, 2, 3, 4)), _milliseconds(*match.group(5, 6, 7, 8)), text))
    return cues


def _milliseconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> int:
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return whole * 1000 + int((fraction or "0").ljust(3, "0")[:3])
