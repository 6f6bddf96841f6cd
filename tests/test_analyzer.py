"""The way of a clip, with real media, real face models and a model whose scores are known."""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import threading
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from fake_model import FACE_RATE, WORTH, backend_of, open_fake

from psamf_edge.errors import InputError, MissingDependencyError, UsageError
from psamf_edge.media.events import Frame
from psamf_edge.media.reader import MediaReader
from psamf_edge.result import MODALITIES
from psamf_edge.words.timed import TimedText

SAMPLE = Path(__file__).parents[1] / "psamf_edge" / "data" / "sample.mp4"
LONG_TEXT = " ".join(f"This is sentence number {i} and it goes on for a while." for i in range(8))


@pytest.fixture(scope="module")
def analyzer():
    with pytest.MonkeyPatch.context() as patch, open_fake(patch) as analyzer:
        yield analyzer


@pytest.fixture(scope="module")
def sample_result(analyzer):
    return analyzer(SAMPLE)


def states(segment) -> dict[str, str]:
    return {name: report.state for name, report in segment.modalities.items()}


def write_wav(path: Path, samples: np.ndarray) -> Path:
    """(N,) in [-1, 1] at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def write_png(path: Path, image: np.ndarray) -> Path:
    """(H, W, 3) uint8."""
    context = av.CodecContext.create("png", "w")
    context.height, context.width = image.shape[:2]
    context.pix_fmt, context.time_base = "rgb24", 1
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    path.write_bytes(b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)]))
    return path


def babble(seconds: float) -> np.ndarray:
    """Noise in syllables: loud enough and uneven enough to pass for talk."""
    time = np.arange(int(16_000 * seconds)) / 16_000
    return np.random.default_rng(0).normal(0, 0.1, len(time)) * np.clip(np.sin(2 * np.pi * 2 * time), 0.001, 1)


@pytest.fixture(scope="module")
def first_frame():
    with MediaReader() as reader:
        return next(event.image for event in reader.read(SAMPLE, audio=False) if isinstance(event, Frame))


def test_the_sample_clip(sample_result):
    assert sample_result.clip == str(SAMPLE)
    assert sample_result.sha256 == hashlib.sha256(SAMPLE.read_bytes()).hexdigest()
    assert 9000 < sample_result.duration_ms < 10_000
    assert [segment.text[:9] for segment in sample_result.segments] == ["I loved t", "Then the ", "But the e"]
    for segment in sample_result.segments:
        assert states(segment) == dict.fromkeys(MODALITIES, "present")
        assert segment.score == sum(WORTH.values())
        assert {name: report.contribution for name, report in segment.modalities.items()} == WORTH
    assert sample_result.warnings == []


def test_stages_are_timed_and_fit_into_the_total(sample_result):
    timing = dict(sample_result.timing_ms)
    total = timing.pop("total")
    assert set(timing) == {"decode", "face", "audio", "words", "model"}
    assert all(ms > 0 for ms in timing.values())
    assert sum(timing.values()) <= total


def test_the_features_are_those_of_each_utterance(analyzer):
    backend_of(analyzer).seen.clear()
    result = analyzer(SAMPLE)
    for segment, features in zip(result.segments, backend_of(analyzer).seen, strict=True):
        seconds = (segment.end_ms - segment.start_ms) / 1000
        assert len(features.audio) == pytest.approx(100 * seconds, abs=1)
        assert len(features.face) == pytest.approx(FACE_RATE * seconds, abs=1)  # the face is there all the time
        assert features.ids[0] == 101  # [CLS] of this vocabulary


def test_a_clip_leaves_nothing_behind_for_the_next(analyzer, sample_result, tmp_path):
    analyzer(write_wav(tmp_path / "talk.wav", babble(2)))
    again = analyzer(SAMPLE)
    assert again.segments == sample_result.segments
    assert again.warnings == sample_result.warnings


@pytest.mark.parametrize("wanted", [("text",), ("audio",), ("face",), ("text", "face"), ("audio", "face")])
def test_what_is_not_asked_for_is_missing(analyzer, wanted):
    result = analyzer(SAMPLE, modalities=wanted)
    for segment in result.segments:
        assert states(segment) == {name: "present" if name in wanted else "missing" for name in MODALITIES}
        assert segment.score == sum(WORTH[name] for name in wanted)
        assert all(
            (report.contribution is None) == (report.state == "missing") for report in segment.modalities.values()
        )
    assert ("audio" in result.timing_ms, "face" in result.timing_ms) == ("audio" in wanted, "face" in wanted)
    assert result.duration_ms > 9000
    assert result.warnings == []


def test_whole_is_one_utterance(analyzer):
    result = analyzer(SAMPLE, whole=True, modalities=["text", "face"])
    (segment,) = result.segments
    assert (segment.start_ms, segment.end_ms) == (0, result.duration_ms)
    assert segment.text.startswith("I loved")
    assert segment.text.endswith("bored.")


def test_whole_and_text_alone_decodes_nothing_and_still_knows_the_length(analyzer):
    result = analyzer(SAMPLE, whole=True, text="Fine.", modalities=["text"])
    assert 9000 < result.duration_ms < 10_000
    assert states(result.segments[0])["text"] == "present"


def test_long_voice_and_face_are_cut_where_the_model_ends(analyzer):
    backend_of(analyzer).seen.clear()
    result = analyzer(SAMPLE, whole=True)  # 9.5 s; the fake takes 6 s
    (features,) = backend_of(analyzer).seen
    assert (len(features.audio), len(features.face)) == (600, 6 * FACE_RATE)
    assert [warning.split(" ")[1] for warning in result.warnings if "longest utterance" in warning] == ["voice", "face"]


def test_the_clip_is_the_mean_weighted_by_duration(analyzer, monkeypatch):
    scores = iter([1.0, -2.0, 0.5])
    run = backend_of(analyzer).run
    monkeypatch.setattr(
        backend_of(analyzer),
        "run",
        lambda features: type(run(features))(next(scores), 0.9, {"text": 0.0, "audio": 0.0, "face": 0.0}),
    )
    result = analyzer(SAMPLE)
    weights = [segment.end_ms - segment.start_ms for segment in result.segments]
    assert result.score == pytest.approx(np.average([1.0, -2.0, 0.5], weights=weights))
    assert [segment.label for segment in result.segments] == ["positive", "negative", "positive"]


class TestWordsAlone:
    def test_text(self, analyzer):
        result = analyzer(text="I love it.")
        assert (result.clip, result.duration_ms, len(result.segments)) == ("-", 0, 1)
        assert result.sha256 == hashlib.sha256(b"I love it.").hexdigest()
        assert states(result.segments[0]) == {"text": "present", "audio": "missing", "face": "missing"}
        assert result.warnings == []
        assert "decode" not in result.timing_ms

    def test_a_text_longer_than_the_model_is_scored_sentence_by_sentence(self, analyzer):
        result = analyzer(text=LONG_TEXT)
        assert [segment.text for segment in result.segments] == [f"{s}." for s in LONG_TEXT[:-1].split(". ")]
        assert result.score == WORTH["text"]
        assert result.warnings == []

    def test_or_cut_when_it_must_be_one(self, analyzer):
        result = analyzer(text=LONG_TEXT, whole=True)
        assert states(result.segments[0])["text"] == "degraded"
        assert "longer than the model reads" in result.warnings[0]

    def test_subtitles_keep_their_times(self, analyzer, tmp_path):
        file = tmp_path / "talk.srt"
        file.write_text("1\n00:00:01,000 --> 00:00:02,000\nFine.\n\n2\n00:00:03,000 --> 00:00:05,000\nGreat.\n")
        result = analyzer(transcript=file)
        assert [(s.start_ms, s.end_ms, s.text) for s in result.segments] == [
            (1000, 2000, "Fine."),
            (3000, 5000, "Great."),
        ]
        assert result.duration_ms == 5000

    @pytest.mark.parametrize("text", ["", "  \n", "\u200b"])
    def test_no_words(self, analyzer, text):
        with pytest.raises(InputError, match="nothing that can be scored"):
            analyzer(text=text)

    @pytest.mark.parametrize("text", ["🙂🙂", "x" * 500])
    def test_words_that_the_model_does_not_know(self, analyzer, text):
        with pytest.raises(InputError, match="knows none of the words"):
            analyzer(text=text)


class TestMissingParts:
    def test_voice_alone(self, analyzer, tmp_path):
        result = analyzer(write_wav(tmp_path / "talk.wav", babble(2)))
        assert states(result.segments[0]) == {"text": "missing", "audio": "present", "face": "missing"}
        assert "The clip has no pictures." in result.warnings
        assert any(warning.startswith("No words were found") for warning in result.warnings)

    def test_a_still_face(self, analyzer, tmp_path, first_frame):
        result = analyzer(write_png(tmp_path / "face.png", first_frame))
        (segment,) = result.segments
        assert states(segment) == {"text": "missing", "audio": "missing", "face": "present"}
        assert (segment.start_ms, segment.end_ms, result.duration_ms) == (0, 0, 0)
        assert "The clip has no sound." in result.warnings

    def test_a_picture_that_may_be_a_face_crop_is_degraded(self, analyzer, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
        result = analyzer(write_png(tmp_path / "crop.png", noise), modalities=["face"])
        assert states(result.segments[0])["face"] == "degraded"
        assert "taken for a cropped face" in result.warnings[0]

    def test_two_faces_are_reported(self, analyzer, tmp_path, first_frame):
        small = first_frame[::2, ::2]
        result = analyzer(write_png(tmp_path / "two.png", np.hstack([small, small])), modalities=["face"])
        assert result.warnings == ["2 faces were seen at once; the largest one was taken."]

    def test_nothing_usable_says_what_was_wrong(self, analyzer, tmp_path):
        with pytest.raises(InputError, match=r"No face was found\."):
            analyzer(write_png(tmp_path / "grey.png", np.full((240, 320, 3), 90, np.uint8)))
        with pytest.raises(InputError, match=r"No speech was heard\."):
            analyzer(write_wav(tmp_path / "silent.wav", np.zeros(32_000)))

    def test_utterances_without_anything_are_left_out(self, analyzer, tmp_path):
        subtitles = tmp_path / "talk.srt"
        subtitles.write_text("1\n00:00:00,500 --> 00:00:02,000\nFine.\n\n2\n00:00:03,000 --> 00:00:04,000\n🙂🙂\n")
        talk = np.concatenate([babble(2.5), np.zeros(48_000)])
        result = analyzer(write_wav(tmp_path / "talk.wav", talk), transcript=subtitles, modalities=["text", "audio"])
        assert [segment.text for segment in result.segments] == ["Fine."]
        assert "No modality was usable and nothing was scored, in 1 of 2 utterances." in result.warnings

    @pytest.mark.parametrize("whole", [False, True])
    def test_captions_of_what_was_not_read_are_not_scored(self, analyzer, tmp_path, whole):
        subtitles = tmp_path / "talk.srt"
        subtitles.write_text("1\n00:00:00,500 --> 00:00:02,000\nFine.\n\n2\n00:00:05,000 --> 00:00:06,000\nBad.\n")
        clip = write_wav(tmp_path / "talk.wav", babble(2.5))
        result = analyzer(clip, transcript=subtitles, whole=whole)
        assert [segment.text for segment in result.segments] == ["Fine."]
        assert any("1 of 2 caption(s) begin after" in warning for warning in result.warnings)


class TestSpeechRecognition:
    @pytest.fixture
    def heard(self, analyzer, monkeypatch):
        """Lengths of the sounds that were given to a recogniser that hears "very nice"."""
        lengths = []

        class Recogniser:
            def transcribe(self, samples):
                lengths.append(len(samples))
                return [TimedText(0, 1500, "very nice")]

        monkeypatch.setattr("psamf_edge.analyzer.open_asr", lambda name: {"auto": Recogniser(), "none": None}[name])
        monkeypatch.setattr(analyzer, "_recognisers", {})
        return lengths

    def test_fills_in_where_there_are_no_words(self, analyzer, heard, tmp_path):
        result = analyzer(write_wav(tmp_path / "talk.wav", babble(2)), asr="auto")
        assert [segment.text for segment in result.segments] == ["very nice"]
        assert heard == [32_000]
        assert any("speech recognition" in warning for warning in result.warnings)

    def test_gets_the_sound_even_if_the_voice_is_not_scored(self, analyzer, heard, tmp_path):
        clip = write_wav(tmp_path / "talk.wav", babble(2))
        result = analyzer(clip, asr="auto", whole=True, modalities=["text"])
        assert heard == [32_000]
        assert states(result.segments[0]) == {"text": "present", "audio": "missing", "face": "missing"}

    def test_is_not_asked_when_there_are_words(self, analyzer, heard):
        analyzer(SAMPLE, asr="auto", modalities=["text"])
        analyzer(SAMPLE, asr="auto", text="Fine.", modalities=["text"])
        assert heard == []

    def test_is_off_by_default(self, analyzer, heard, tmp_path):
        analyzer(write_wav(tmp_path / "talk.wav", babble(2)))
        assert heard == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a clip"),
        ({"text": "a", "transcript": "a.srt"}, "give one of them"),
        ({"clip": SAMPLE, "text": "a", "modalities": ["audio"]}, "not among the modalities"),
        ({"clip": SAMPLE, "modalities": []}, r"\(none\)"),
        ({"clip": SAMPLE, "modalities": ["audio", "smell"]}, "smell .* text, audio, face"),
        ({"clip": SAMPLE, "transcript": "not-there.srt"}, "no transcript file"),
        ({"clip": SAMPLE, "asr": "telepathy"}, "telepathy"),
        ({"text": "a", "asr": "telepathy"}, "telepathy"),  # also where no speech has to be recognised
        ({"clip": SAMPLE, "modalities": ["face"], "asr": "telepathy"}, "telepathy"),
    ],
)
def test_contradictions(analyzer, arguments, message):
    with pytest.raises(UsageError, match=message):
        analyzer(**arguments)


def test_clips_that_cannot_be_read(analyzer, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(bytes(range(256)) * 40)
    for name in ("empty.mp4", "junk.mp4", "missing.mp4", "."):
        with pytest.raises(InputError):
            analyzer(tmp_path / name)
    assert analyzer(text="It still works.").segments


def test_progress_runs_from_0_to_1(analyzer):
    shares = []
    analyzer(SAMPLE, on_progress=shares.append)
    assert len(shares) > 20
    assert 0 <= min(shares) < 0.1
    assert 0.9 < max(shares) <= 1


def test_threads_take_turns(analyzer, sample_result):
    results = {}

    def analyse(key, **arguments):
        results[key] = analyzer(**arguments)

    threads = [threading.Thread(target=analyse, args=(i,), kwargs={"clip": SAMPLE}) for i in range(2)]
    threads += [threading.Thread(target=analyse, args=("words",), kwargs={"text": "Fine."})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0].segments == results[1].segments == sample_result.segments
    assert results["words"].segments[0].text == "Fine."


def test_closing_ends_the_child_and_the_model(monkeypatch):
    with open_fake(monkeypatch) as analyzer:
        process = analyzer._reader._child._process
        assert process.poll() is None
    analyzer.close()
    assert process.poll() is not None
    assert not backend_of(analyzer).is_open


def test_a_failed_load_leaves_no_child(monkeypatch):
    readers = []

    class Reader(MediaReader):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            readers.append(self._child._process)

    def fail(*arguments, **options):
        raise MissingDependencyError("no GPU")

    monkeypatch.setattr("psamf_edge.analyzer.MediaReader", Reader)
    monkeypatch.setattr("psamf_edge.scorer.open_bundle", fail)
    from psamf_edge.analyzer import Analyzer

    with pytest.raises(MissingDependencyError):
        Analyzer()
    assert readers[0].poll() is not None


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory from /proc")
def test_a_thousand_runs_keep_memory_and_files(analyzer, tmp_path, first_frame):
    clip = write_png(tmp_path / "face.png", first_frame)

    def run(count: int) -> tuple[float, int]:
        for i in range(count):
            analyzer(clip, text=f"Number {i} is fine.")
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20, len(os.listdir("/proc/self/fd"))

    memory_mb, files = run(100)  # caches fill
    later_mb, later_files = run(1000)
    assert later_files == files
    assert later_mb - memory_mb < 5  # the word cache grows on; frames kept would cost 900 MB, sessions far more
