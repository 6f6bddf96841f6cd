"""Rolling captions: each line is read once; what somebody says twice stays."""

from types import SimpleNamespace

from psamf_edge.words.subtitles import read_text_file
from psamf_edge.words.timed import TimedText, unroll
from psamf_edge.words.transcript import find_transcript

# As YouTube writes them: a row of one space where the screen is empty, a tag before each word, and 10 ms between.
YOUTUBE = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.389 align:start position:0%
 
I<00:00:00.480><c> really</c><00:00:00.900><c> hated</c><00:00:01.200><c> this</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
I really hated this
 

00:00:02.399 --> 00:00:04.000 align:start position:0%
I really hated this
film<00:00:02.600><c> so</c><00:00:03.000><c> much</c>

00:00:04.000 --> 00:00:05.500 align:start position:0%
film so much
 

00:00:05.500 --> 00:00:07.000 align:start position:0%
film so much
but<00:00:06.000><c> the</c><00:00:06.500><c> end</c>
"""  # noqa: W293 (the spaces are what this is about)
SAID = [
    TimedText(160, 2389, "I really hated this"),
    TimedText(2399, 4000, "film so much"),
    TimedText(5500, 7000, "but the end"),
]


def rolled(*captions):
    kept, warnings = unroll(TimedText(*caption) for caption in captions)
    return [caption.text for caption in kept if caption.text], warnings


def test_youtube_captions_are_read_once(tmp_path):
    path = tmp_path / "talk.vtt"
    path.write_text(YOUTUBE, encoding="utf-8")
    content = read_text_file(path)
    assert content.timed == SAID
    assert content.text == "I really hated this film so much but the end"
    assert content.warnings == ["talk.vtt: The captions roll: 4 line(s) that were shown again were read once."]


def test_so_are_those_that_were_made_srt_or_put_into_the_clip(tmp_path):
    cues = [
        (160, 2389, "I really hated this"),
        (2389, 2399, "I really hated this"),
        (2399, 4000, "I really hated this\nfilm so much"),
        (4000, 4010, "film so much"),
        (5500, 7000, "but the end"),
    ]
    path = tmp_path / "talk.srt"
    path.write_text("\n".join(f"00:0{a / 1000:.3f} --> 00:0{b / 1000:.3f}\n{text}\n" for a, b, text in cues))
    assert read_text_file(path).timed == SAID
    embedded = [SimpleNamespace(start_ms=a, end_ms=b, text=text) for a, b, text in cues]
    transcript = find_transcript(embedded=embedded)
    assert transcript.timed == SAID
    assert len(transcript.warnings) == 1


def test_three_rows_that_roll():
    captions = ["one", "one\ntwo", "one\ntwo\nthree", "two\nthree\nfour"]
    texts, _ = rolled(*((1000 * i, 1000 * i + 999, text) for i, text in enumerate(captions)))
    assert texts == ["one", "two", "three", "four"]


def test_what_is_said_twice_stays(tmp_path):
    no = [(0, 1000, "No."), (1000, 2000, "No.")]
    assert rolled(*no) == (["No.", "No."], [])
    assert rolled((0, 1000, "No."), (1000, 2000, "No.\nNo."))[0] == ["No.", "No."]
    assert rolled((0, 1000, "You can't\ndo that."), (1000, 2000, "You can't\ndo that.")) == (
        ["You can't\ndo that.", "You can't\ndo that."], []
    )  # fmt: skip
    path = tmp_path / "talk.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\nNo.\n\n2\n00:00:01,000 --> 00:00:02,000\nNo.\n")
    assert read_text_file(path).text == "No. No."


def test_after_a_pause_a_line_is_said_anew():
    assert rolled((0, 1000, "No."), (1500, 2500, "No.\nI mean it.")) == (["No.", "No.\nI mean it."], [])
