"""Which source of words wins, and what is said when there is none."""

from types import SimpleNamespace

import numpy as np
import pytest
from locked_folder import locked_folder

from psamf_edge.errors import InputError, UsageError
from psamf_edge.words.subtitles import read_text_file
from psamf_edge.words.timed import TimedText
from psamf_edge.words.transcript import HEARD, Transcript, find_transcript, inside

AUDIO = np.zeros(16_000, np.float32)
EMBEDDED = [
    SimpleNamespace(start_ms=0, end_ms=900, text="from  inside"),
    SimpleNamespace(start_ms=900, end_ms=950, text=" "),
]


class Hears:
    def __init__(self, *captions):
        self.captions = [TimedText(*c) for c in captions]

    def transcribe(self, samples):
        assert samples is AUDIO
        return self.captions


@pytest.fixture
def clip(tmp_path):
    return tmp_path / "clip.mp4"


def test_order_of_sources(clip):
    named = clip.with_name("named.txt")
    named.write_text("from file")
    for suffix in (".srt", ".vtt"):
        clip.with_suffix(suffix).write_text(f"00:01.000 --> 00:02.000\nfrom {suffix}\n")
    clip.with_suffix(".txt").write_text("from .txt")
    asr = Hears((0, 500, "from voice"))

    def found(text=None, file=None, embedded=EMBEDDED):
        transcript = find_transcript(clip, text, file and read_text_file(file), embedded, AUDIO, asr)
        assert transcript.warnings == ([HEARD] if transcript.source == "asr" else [])
        return transcript.source, transcript.text

    assert found("from  me", named) == ("given", "from me")
    assert found(" ", named) == ("file", "from file")
    for suffix in (".srt", ".vtt", ".txt"):
        assert found() == ("sidecar", f"from {suffix}")
        clip.with_suffix(suffix).unlink()
    assert found() == ("embedded", "from inside")
    assert found(embedded=[]) == ("asr", "from voice")


def test_times_come_with_the_words(clip):
    clip.with_suffix(".srt").write_text("00:01.000 --> 00:02.000\nhello\n")
    assert find_transcript(clip).timed == [TimedText(1000, 2000, "hello")]
    assert find_transcript(embedded=EMBEDDED).timed == [TimedText(0, 900, "from inside")]


def test_no_words_says_how_to_get_some():
    transcript = find_transcript()
    assert transcript == Transcript("none", [], None, transcript.warnings)
    (warning,) = transcript.warnings
    for way in ("--text", "--transcript", ".srt", "pip install 'psamf-edge[asr]'"):
        assert way in warning


def test_recogniser_that_hears_nothing_is_reported():
    transcript = find_transcript(audio=AUDIO, asr=Hears())
    assert transcript.source == "none"
    assert "no words" in transcript.warnings[0]


def test_recogniser_is_not_asked_without_sound():
    assert find_transcript(audio=AUDIO[:0], asr=Hears((0, 1, "x"))).source == "none"
    assert find_transcript(audio=None, asr=Hears((0, 1, "x"))).source == "none"


def test_bad_sidecar_warns_and_the_next_source_is_used(clip):
    clip.with_suffix(".srt").write_bytes(b"\0\0")
    clip.with_suffix(".vtt").write_text("WEBVTT\n")
    clip.with_suffix(".txt").write_text("good")
    transcript = find_transcript(clip)
    assert (transcript.source, transcript.text) == ("sidecar", "good")
    assert len(transcript.warnings) == 2


def test_a_sidecar_in_capitals_as_cameras_write_it(tmp_path):
    (tmp_path / "CLIP.SRT").write_text("00:01.000 --> 00:02.000\nhello\n")
    assert find_transcript(tmp_path / "CLIP.MP4").text == "hello"


def test_a_sidecar_that_may_not_be_read_is_passed_over():
    with locked_folder() as locked:
        clip = locked.parent / "talk.mp4"
        clip.with_suffix(".srt").symlink_to(locked / "talk.srt")
        clip.with_suffix(".txt").write_text("good")
        transcript = find_transcript(clip)
        assert transcript.text == "good"
        assert "Permission denied" in transcript.warnings[0]
        with pytest.raises(InputError, match="Permission denied"):
            read_text_file(locked / "talk.srt")


def test_a_name_too_long_for_a_sidecar_has_none(tmp_path):
    assert find_transcript(tmp_path / f"{'x' * 252}.ts").source == "none"


CAPTIONS = [TimedText(0, 900, "one"), TimedText(1000, 2500, "two"), TimedText(3000, 3900, "three")]


def test_captions_after_what_was_read_are_left_out_aloud():
    kept = inside(Transcript("file", CAPTIONS, "one two three", ["before"]), 2000)
    assert (kept.timed, kept.text) == (CAPTIONS[:2], "one two")
    assert kept.warnings == ["before", "1 of 3 caption(s) begin after what was read, 2.0 s: they were left out."]


@pytest.mark.parametrize("duration_ms", [0, 4000])  # of a picture; of a clip that holds them all
def test_no_other_caption_is_left_out(duration_ms):
    transcript = Transcript("file", CAPTIONS, "one two three")
    assert inside(transcript, duration_ms) == transcript
    late = Transcript("file", CAPTIONS[2:], "three")  # captions of another clock than the clip's
    assert inside(late, 2000) == late


def test_bad_named_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no transcript file"):
        read_text_file(tmp_path / "gone.srt")
    (tmp_path / "bad.srt").write_text("words")
    with pytest.raises(InputError, match="holds no caption"):
        read_text_file(tmp_path / "bad.srt")
