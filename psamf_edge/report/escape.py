"""Makes text that came from outside (file names, transcripts) harmless in each kind of output."""

from __future__ import annotations

import html
import re

_UNSAFE = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL and C1: terminals obey them, XML forbids most of them
    "\u202a-\u202e\u2066-\u2069"  # bidirectional overrides and isolates: they reorder the text that follows
    "\ud800-\udfff"  # half a pair (an undecodable file name on POSIX): cannot be encoded as UTF-8
    "\ufffe\uffff"  # not characters: XML forbids them
    "]"
)
_FORMULA_STARTS = tuple("=+-@＝＋－＠")  # spreadsheets read the full-width forms as formulas too
_CALLS = tuple("(|!（｜！")  # what a formula needs to call a function, a program or another file
_SRT_LOOKALIKES = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")"})


def encodable(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD; all else as it was."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def printable(text: str) -> str:
    """One line that is safe on a terminal and legal in XML: white space runs become one space, controls U+FFFD."""
    return _UNSAFE.sub("\ufffd", " ".join(text.split()))


def shown(text: str) -> str:
    """Lines that are safe on a terminal: spaces and line feeds stay, other controls become U+FFFD."""
    return "\n".join(_UNSAFE.sub("\ufffd", line.expandtabs()) for line in text.split("\n"))


def markup(text: str) -> str:
    """`printable` text for the content or a quoted attribute of HTML and SVG."""
    return html.escape(printable(text), quote=True)


def csv_cell(text: str) -> str:
    """`printable` text that no spreadsheet runs: a leading formula sign is preceded by an apostrophe."""
    cell = printable(text)
    return "'" + cell if cell.startswith(_FORMULA_STARTS) else cell


def id_cell(text: str) -> str:
    """An id as it came, to be joined on (YouTube's may begin with a hyphen); one that could run as a `csv_cell`."""
    start = text.lstrip()
    runs = start.startswith(("=", "＝")) or (
        start.startswith(_FORMULA_STARTS) and any(sign in start for sign in _CALLS)
    )
    return csv_cell(text) if runs else text


def srt_text(text: str) -> str:
    """`printable` text without SubRip tags. SubRip has no escapes, so `<`, `>`, `{`, `}` become look-alikes."""
    return printable(text).translate(_SRT_LOOKALIKES)


def vtt_text(text: str) -> str:
    """`printable` text with the three escapes of WebVTT; `-->` cannot survive them."""
    return html.escape(printable(text), quote=False)
