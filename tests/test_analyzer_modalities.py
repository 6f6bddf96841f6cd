"""When a modality is present, degraded or missing."""

from __future__ import annotations

import numpy as np
import pytest
from fake_model import WEIGHTS
from test_analyzer import babble

from psamf_edge import modalities as m
from psamf_edge.audio.features import extract
from psamf_edge.face.features import VISION_FEATURES, FaceFeatures
from psamf_edge.words.utterances import Utterance
from psamf_edge.words.wordpiece import WordPiece

SECOND = 16_000


@pytest.fixture(scope="module")
def wordpiece():
    return WordPiece((WEIGHTS / "vocab.txt").read_bytes())


class TestText:
    @pytest.mark.parametrize("text", [None, ""])
    def test_none(self, wordpiece, text):
        assert m.text_part(wordpiece, text, 32) is m.ABSENT

    @pytest.mark.parametrize("text", ["  ", "\u200b\x00", "\n"])
    def test_characters_that_say_nothing(self, wordpiece, text):
        assert m.text_part(wordpiece, text, 32).state == "missing"

    def test_known_words(self, wordpiece):
        part = m.text_part(wordpiece, "A good film", 32)
        assert (part.state, part.reasons) == ("present", ())
        assert part.values.tolist() == wordpiece.encode("A good film").ids.tolist()

    @pytest.mark.parametrize(
        ("text", "state", "reasons"),
        [
            ("good 🙂", "present", ()),
            ("good 🙂 🙃", "degraded", (m.UNKNOWN_WORDS,)),
            ("🙂 🙃", "missing", (m.NO_KNOWN_WORD,)),
        ],
    )
    def test_unknown_words(self, wordpiece, text, state, reasons):
        part = m.text_part(wordpiece, text, 32)
        assert (part.state, part.reasons) == (state, reasons)

    @pytest.mark.parametrize(("words", "state"), [(6, "present"), (7, "present"), (14, "present"), (15, "degraded")])
    def test_long_text(self, wordpiece, words, state):
        part = m.text_part(wordpiece, "good " * words, 8)  # 6 words fit, with [CLS] and [SEP]
        assert part.state == state
        assert len(part.values) == 8
        assert part.reasons == ((m.LONG_TEXT,) if words > 6 else ())


class TestAudio:
    def test_speech(self):
        samples = babble(3.0).astype(np.float32)
        part = m.audio_part(samples, [(0, 3000)], Utterance(500, 2500), 1000)
        assert (part.state, part.reasons) == ("present", ())
        np.testing.assert_array_equal(part.values, extract(samples[SECOND // 2 : SECOND * 5 // 2]))

    @pytest.mark.parametrize("spans", [[], [(0, 1000)], [(2000, 3000)]])
    def test_no_speech_in_the_utterance(self, spans):
        part = m.audio_part(np.ones(3 * SECOND, np.float32), spans, Utterance(1000, 2000), 1000)
        assert (part.values, part.state, part.reasons) == (None, "missing", (m.NO_SPEECH,))

    @pytest.mark.parametrize(("silent_s", "state"), [(1.9, "present"), (2.1, "degraded")])
    def test_digital_silence(self, silent_s, state):
        samples = babble(4.0).astype(np.float32)
        samples[: int(silent_s * SECOND)] = 0
        part = m.audio_part(samples, [(2500, 4000)], Utterance(0, 4000), 1000)
        assert (part.state, part.reasons) == (state, (m.SILENCE,) if state == "degraded" else ())

    def test_sound_that_ends_before_the_utterance(self):
        part = m.audio_part(babble(1.0).astype(np.float32), [(0, 1000)], Utterance(0, 4000), 1000)
        assert (part.state, part.reasons, len(part.values)) == ("degraded", (m.SILENCE,), 100)

    @pytest.mark.parametrize(("seconds", "state"), [(3, "present"), (5, "degraded")])
    def test_longer_than_the_model(self, seconds, state):
        samples = babble(seconds).astype(np.float32)
        part = m.audio_part(samples, [(0, 1000 * seconds)], Utterance(0, 1000 * seconds), 200)
        assert (part.state, part.reasons, len(part.values)) == (state, (m.LONG_AUDIO,), 200)

    def test_an_instant(self):
        part = m.audio_part(babble(1.0).astype(np.float32), [(0, 1000)], Utterance(400, 401), 1000)
        assert (part.state, len(part.values)) == ("present", 1)


def seen(frames: int, with_face: int, with_mesh: int | None = None) -> FaceFeatures:
    values = np.zeros((with_face, len(VISION_FEATURES)), np.float32)
    values[: with_face if with_mesh is None else with_mesh, m.MESH_FOUND] = 1
    return FaceFeatures(values, np.arange(with_face, dtype=np.float32), frames, with_face, 1)


class TestFace:
    @pytest.mark.parametrize(
        ("face", "state", "reasons", "rows"),
        [
            (seen(0, 0), "missing", (m.NO_FACE,), None),
            (seen(10, 0), "missing", (m.NO_FACE,), None),
            (seen(10, 4), "degraded", (m.RARE_FACE,), 4),
            (seen(10, 5), "present", (), 5),
            (seen(1, 1), "present", (), 1),
            (seen(1, 1, 0), "degraded", (m.FACE_CROP,), 1),
            (seen(10, 10, 5), "present", (), 10),
            (seen(20, 15), "present", (m.LONG_FACE,), 12),
            (seen(30, 30), "degraded", (m.LONG_FACE,), 12),
        ],
    )
    def test_states(self, face, state, reasons, rows):
        part = m.face_part(face, max_frames=12)
        assert (part.state, part.reasons) == (state, reasons)
        assert (None if part.values is None else len(part.values)) == rows
