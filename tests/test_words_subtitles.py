"""Subtitle and transcript files: well-formed, mended, refused. PyAV (FFmpeg) is the oracle for well-formed ones."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psamf_edge.errors import InputError, UsageError
from psamf_edge.words import subtitles
from psamf_edge.words.subtitles import read_text_file
from psamf_edge.words.timed import TimedText, repair_times

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i> there.

2
00:00:03,000 --> 00:00:04,250
{\\an8}Two lines
of <font color="#fff">text</font>.

3
01:00:05,007 --> 01:00:06,000
Late.
"""
EXPECTED = [
    TimedText(1000, 2500, "Hello there."),
    TimedText(3000, 4250, "Two lines of text."),
    TimedText(3_605_007, 3_606_000, "Late."),
]


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return read_text_file(path)


@pytest.mark.parametrize(
    "content",
    [
        SRT,
        "\ufeff" + SRT,
        SRT.replace("\n", "\r\n"),
        SRT.replace(",", "."),
        SRT.replace("-->", " -> "),
        SRT.replace("00:00:", "00:"),
        "\n\n" + SRT.replace("1\n00", "00").replace("2\n00", "00").replace("3\n01", "01"),
        SRT.replace("\n\n", "\n"),
        SRT.replace("Two lines\n", "Two lines\n\n"),
        SRT.replace("02,500", "02,500 X1:10 X2:20 Y1:1 Y2:2"),
        SRT.replace(",000 ", ",000000 ").replace("4,250", "4,250999"),
        SRT.encode("utf-16"),
    ],
    ids=[
        *("plain", "bom", "crlf", "dots", "arrow", "no-hours", "no-numbers", "no-blanks", "blank-inside"),
        *("coordinates", "microseconds", "utf-16"),
    ],
)
def test_srt_variants_read_the_same(tmp_path, content):
    result = read(tmp_path, "a.srt", content)
    assert result.timed == EXPECTED
    assert result.text == "Hello there. Two lines of text. Late."
    assert result.warnings == []


def test_vtt_with_notes_styles_settings_and_voices(tmp_path):
    content = """WEBVTT - title
Kind: captions

STYLE
::cue { color: red }

NOTE a comment
00:00:00.000 --> 00:00:09.000
never shown

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Ann>Fish &amp; <c.loud>chips</c></v>

00:00:03.000 --> 00:00:04.000
I <00:00:03.500>love it

NOTE the end
"""
    assert read(tmp_path, "a.vtt", content).timed == [
        TimedText(1000, 2500, "Fish & chips"),
        TimedText(3000, 4000, "I love it"),
    ]


def test_signs_that_are_not_tags_stay(tmp_path):
    content = "1\n00:00:01,000 --> 00:00:02,000\nI <3 you, a < b and c > d\n"
    assert read(tmp_path, "a.srt", content).text == "I <3 you, a < b and c > d"


def test_caption_that_is_a_number_stays(tmp_path):
    content = "00:00:01,000 --> 00:00:02,000\n42\n\n2\n00:00:03,000 --> 00:00:04,000\n43\n"
    assert [c.text for c in read(tmp_path, "a.srt", content).timed] == ["42", "43"]


def test_reversed_and_overlapping_times_are_mended_aloud(tmp_path):
    content = "00:04.000 --> 00:03.000\nb\n\n00:01.000 --> 00:03.500\na\n\n00:09.000 --> 00:09.000\nc\n"
    result = read(tmp_path, "a.vtt", content)
    assert result.timed == [TimedText(1000, 3000, "a"), TimedText(3000, 4000, "b"), TimedText(9000, 9000, "c")]
    assert len(result.warnings) == 2
    assert "swapped" in result.warnings[0]
    assert "overlapped" in result.warnings[1]


def test_cp1252_is_read_with_a_warning(tmp_path):
    result = read(tmp_path, "a.txt", "It’s a café".encode("cp1252"))
    assert result.text == "It’s a café"
    assert "Windows-1252" in result.warnings[0]


def test_plain_text_has_no_times(tmp_path):
    result = read(tmp_path, "a.txt", "\ufeffOne line.\r\n\r\nAnother  line.\n")
    assert (result.timed, result.text, result.warnings) == ([], "One line. Another line.", [])


def test_files_that_say_nothing(tmp_path):
    assert read(tmp_path, "a.txt", " \n ").text is None
    assert read(tmp_path, "a.vtt", "WEBVTT\n\n").text is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", "", "holds no caption"),
        ("a.srt", "just words\n\nand more", "holds no caption"),
        ("a.vtt", "no header, no cue", "holds no caption"),
        ("a.srt", b"\x00\x01\x02\xff" * 50, "not a text file"),
        ("a.txt", b"MZ\x00\x00", "not a text file"),
        ("a.ass", SRT, "must end in .srt, .vtt, .txt"),
        ("a", SRT, "must end in"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, name, content)


def test_size_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(subtitles, "MAX_BYTES", 10)
    assert read(tmp_path, "a.txt", "x" * 10).text == "x" * 10
    with pytest.raises(InputError, match="larger than"):
        read(tmp_path, "a.txt", "x" * 11)


def test_missing_file_and_folder(tmp_path):
    (tmp_path / "folder.srt").mkdir()
    for name in ("gone.srt", "folder.srt"):
        with pytest.raises(UsageError, match="no transcript file"):
            read_text_file(tmp_path / name)


def test_srt_agrees_with_ffmpeg(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.srt"
    path.write_text(SRT, encoding="utf-8")
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        times = [
            (int(p.pts * stream.time_base * 1000), int((p.pts + p.duration) * stream.time_base * 1000))
            for p in container.demux(stream)
            if p.pts is not None
        ]
    assert [(c.start_ms, c.end_ms) for c in read_text_file(path).timed] == times


@settings(deadline=None)  # the time of one example says nothing on a busy machine
@given(st.binary(max_size=300))
def test_junk_never_raises_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "junk.srt"
    for content in (data, b"1\n00:00:01,000 --> 00:00:02,000\n" + data):
        path.write_bytes(content)
        with contextlib.suppress(InputError):
            read_text_file(path)


@settings(deadline=None)
@given(st.lists(st.builds(TimedText, st.integers(0, 50), st.integers(0, 50), st.sampled_from(["a", "b c", " ", ""]))))
def test_repaired_times_are_in_order_and_lose_no_word(captions):
    kept, _ = repair_times(captions)
    assert all(c.start_ms <= c.end_ms for c in kept)
    assert all(a.end_ms <= b.start_ms and a.start_ms < b.start_ms for a, b in pairwise(kept))
    words = [word for c in captions for word in c.text.split()]
    assert sorted(word for c in kept for word in c.text.split()) == sorted(words)
    assert repair_times(kept) == (kept, [])
