"""Any text at all, put into each kind of output and read back by a parser that is not ours."""

from __future__ import annotations

import csv
import html
import io
import unicodedata
import xml.etree.ElementTree as ET

import pytest

from psamf_edge.report.escape import csv_cell, encodable, markup, printable, srt_text, vtt_text

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
any_text = hypothesis.given(text=hypothesis.strategies.text(hypothesis.strategies.characters(exclude_categories=())))


@any_text
def test_printable_is_one_line_without_controls(text):
    line = printable(text)
    line.encode()
    assert len(line.splitlines()) <= 1
    assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cs")]
    assert not [c for c in line if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI")]
    assert printable(line) == line


@any_text
def test_markup_is_xml_and_html_for_the_printable_text(text):
    element = ET.fromstring(f'<a b="{markup(text)}">{markup(text)}</a>')
    assert element.get("b") == (element.text or "") == html.unescape(markup(text)) == printable(text)


@any_text
def test_csv_cell_is_one_cell_and_no_formula(text):
    table = io.StringIO()
    csv.writer(table).writerow([csv_cell(text), "end"])
    ((cell, end),) = csv.reader(io.StringIO(table.getvalue(), newline=""))
    assert end == "end"
    assert cell.removeprefix("'") == printable(text).removeprefix("'")
    assert not cell.startswith(tuple("=+-@\t\r"))


@any_text
def test_cues_hold_no_tag_and_no_arrow(text):
    assert not set("<>{}") & set(srt_text(text))
    assert not set("<>") & set(vtt_text(text))


@any_text
def test_encodable_changes_nothing_else(text):
    encodable(text).encode()
    assert len(encodable(text)) == len(text)
    assert all(a == b or unicodedata.category(a) == "Cs" for a, b in zip(text, encodable(text), strict=True))
