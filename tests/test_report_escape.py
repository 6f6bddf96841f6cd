"""Any text at all, put into each kind of output and read back by a parser that is not ours."""

from __future__ import annotations

import csv
import html
import io
import json
import unicodedata
import xml.etree.ElementTree as ET
from functools import cache
from html.parser import HTMLParser

import av
import pytest
from report_samples import make_result, make_segment

from psamf_edge.report import render
from psamf_edge.report.escape import csv_cell, encodable, id_cell, markup, printable, shown, srt_text, vtt_text

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
any_text = hypothesis.given(text=hypothesis.strategies.text(hypothesis.strategies.characters(exclude_categories=())))
whole_files = hypothesis.settings(max_examples=40, deadline=None)  # each writes a file and reads it back


@any_text
def test_printable_is_one_line_without_controls(text):
    line = printable(text)
    line.encode()
    assert len(line.splitlines()) <= 1
    assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cs")]
    assert not [c for c in line if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI")]
    assert printable(line) == line


@any_text
def test_shown_keeps_the_lines_and_no_control(text):
    safe = shown(text)
    safe.encode()
    assert safe.count("\n") == text.count("\n")
    assert not [c for c in safe if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert not [c for c in safe if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI")]


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


# Whole files: the text as file name, as words and as warning at once


def told(text):
    """A result in which everything that can come from outside is `text`."""
    return make_result([make_segment(0, 1000, text, 1.0), make_segment(1000, 2500, text, -2.0)], text, (text,))


class Structure(HTMLParser):
    """What a page is made of, by Python's own parser: every tag with its attributes' names, and every target."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.targets, self.comments = set(), set(), []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add((tag, tuple(name for name, _ in attributes)))
        self.targets |= {value for name, value in attributes if name in ("href", "src", "action", "style")}

    def handle_comment(self, data):
        self.comments.append(data)


PLAIN = [told("plain words"), told("a"), told("words " * 60), told("")]


@cache
def page_tags():
    return {tag for result in PLAIN for tag in Structure(render([result, result], "html")).tags}


@cache
def svg_tags():
    return {element.tag for result in PLAIN for element in ET.fromstring(render([result], "svg").encode()).iter()}


@whole_files
@any_text
def test_no_text_changes_what_a_page_is_made_of(text):
    page = Structure(render([told(text), told(text)], "html"))
    assert page.tags <= page_tags()
    assert page.targets == {"#clip-1", "#clip-2"}
    assert page.comments == []


@whole_files
@any_text
def test_svg_is_xml_with_the_same_elements(text):
    drawn = ET.fromstring(render([told(text)], "svg").encode())
    assert {element.tag for element in drawn.iter()} <= svg_tags()


@whole_files
@any_text
def test_a_table_has_the_same_cells(text):
    rows = list(csv.reader(io.StringIO(render([told(text)], "csv"), newline="")))
    assert [len(row) for row in rows] == [len(rows[0])] * 3
    for row in rows[1:]:
        assert row[0] == row[3] == csv_cell(text)


@whole_files
@any_text
def test_json_is_what_strict_readers_take(text):
    raw = render([told(text)], "json")
    assert raw.isascii()
    document = json.loads(raw)
    json.dumps(document, ensure_ascii=False).encode()  # no half of a pair is left, which JSON may spell but UTF-8 not
    assert [segment["text"] for segment in document["segments"]] == [encodable(text)] * 2


@pytest.mark.parametrize("format", ["srt", "vtt"])
@whole_files
@hypothesis.given(
    text=hypothesis.strategies.text(
        hypothesis.strategies.one_of(
            hypothesis.strategies.characters(exclude_categories=()),
            hypothesis.strategies.sampled_from("\n\r\u2028\x0b\x85->:0123456789,. {}<>&"),
        )
    )
)
def test_ffmpeg_finds_the_same_cues(format, text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"cues.{format}"
    path.write_bytes(render([told(text)], format).encode())
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        cues = [packet for packet in container.demux(stream) if packet.size]
        assert [round(cue.pts * stream.time_base * 1000) for cue in cues] == [0, 1000]
    assert all(bytes(cue).decode().count("\n") == 0 for cue in cues)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("-3g5yACwYnA[0]", "-3g5yACwYnA[0]"),
        ("video$_$3", "video$_$3"),
        ("@anna", "@anna"),
        ("-1", "-1"),
        ("two\nlines", "two\nlines"),
        ("=1+1", "'=1+1"),
        (" =1+1", "'=1+1"),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("＝HYPERLINK(A1)", "'＝HYPERLINK(A1)"),
    ],
)
def test_ids_stay_joinable_unless_they_would_run(given, written):
    assert id_cell(given) == written
