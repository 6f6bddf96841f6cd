"""Makes text fit a width when no font is at hand: advances are bounded from above, what is too long is ellipsised."""

from __future__ import annotations

# Upper bounds, in em, of the advances in DejaVu Sans, the widest of the usual sans-serif fonts and the one that
# matplotlib brings. tests/test_report_picture.py holds them against the font's own metrics.
_THIN, _COMMON, _BROAD, _WIDE = 0.42, 0.64, 0.84, 1.01
_THIN_CHARACTERS = frozenset(" iljftrI.,:;'!|()[]-/\\")
_BROAD_CHARACTERS = frozenset("ABCDEFGHJKLNOPQRSTUVXYZ+<=>^~&#")
_WIDE_CHARACTERS = frozenset("mwMW@%")
_BOLD = 1.18  # DejaVu Sans Bold over these bounds, at most


def text_width(text: str, size: float, bold: bool = False) -> float:
    """An upper bound of the width of one line, in the unit of the font size."""
    return sum(map(_advance, text)) * size * (_BOLD if bold else 1.0)


def fit_line(text: str, width: float, size: float, bold: bool = False) -> str:
    """The text, or as much of it as fits before an ellipsis; empty where not even that fits."""
    lines = fit_lines(text, width, size, limit=1, bold=bold)
    return lines[0] if lines else ""


def fit_lines(text: str, width: float, size: float, limit: int, bold: bool = False) -> list[str]:
    """At most `limit` lines no wider than `width`, broken at spaces and inside words longer than a line."""
    if text_width("…", size, bold) > width:
        return []
    lines: list[str] = []
    rest = text.strip()
    while rest and len(lines) < limit:
        head = rest[: _fitting(rest, width, size, bold)]
        if len(head) < len(rest) and len(lines) == limit - 1:
            head = rest[: _fitting(rest, width - text_width("…", size, bold), size, bold)].rstrip() + "…"
        elif len(head) < len(rest) and rest[len(head)] != " " and " " in head.rstrip():
            head = head[: head.rindex(" ")]
        rest = rest[len(head) :].lstrip()
        lines.append(head.rstrip())
    return lines


def _fitting(text: str, width: float, size: float, bold: bool) -> int:
    """How many leading characters fit."""
    used = 0.0
    for index, character in enumerate(text):
        used += text_width(character, size, bold)
        if used > width:
            return index
    return len(text)


def _advance(character: str) -> float:
    if character in _THIN_CHARACTERS:
        return _THIN
    if character in _BROAD_CHARACTERS:
        return _BROAD
    if character in _WIDE_CHARACTERS or not character.isascii():  # beyond ASCII: an em, as for ideographs
        return _WIDE
    return _COMMON
