"""Speech spans on signals whose answer is known by construction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psamf_edge.errors import UsageError
from psamf_edge.words.silence import FRAME_MS, HANGOVER_MS, LEAD_MS, SAMPLE_RATE, speech_spans

RNG = np.random.default_rng(7)


def voice(ms: int) -> np.ndarray:
    """A 120 Hz pulse train through a resonance, with syllables: not speech, but as loud and as uneven."""
    t = np.arange(ms * SAMPLE_RATE // 1000) / SAMPLE_RATE
    partials = sum(np.sin(2 * np.pi * 120 * k * t) / (1 + abs(k - 5)) for k in range(1, 25))
    return (0.1 * partials * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


def silence(ms: int) -> np.ndarray:
    return np.zeros(ms * SAMPLE_RATE // 1000, np.float32)


PAUSED = np.concatenate([silence(500), voice(1500), silence(800), voice(1000), silence(600)])
SPOKEN = [(500, 2000), (2800, 3800)]


def assert_close(spans, truth):
    # 60 ms: three frames of smoothing, and syllables that fade in and out below the threshold
    padded = [(start - LEAD_MS, end + HANGOVER_MS) for start, end in truth]
    assert np.shape(spans) == np.shape(padded)
    np.testing.assert_allclose(spans, padded, atol=60)


@pytest.mark.parametrize("gain", [0.01, 0.1, 1.0, 30.0], ids=["quiet", "soft", "plain", "clipped"])
def test_level_does_not_matter(gain):
    assert_close(speech_spans(PAUSED * gain), SPOKEN)


@pytest.mark.parametrize("disturbance", ["noise", "offset", "hum", "nan", "inf"])
def test_disturbed_recordings(disturbance):
    samples = PAUSED.copy()
    n = np.arange(len(samples))
    if disturbance == "noise":
        samples += 0.01 * RNG.standard_normal(len(samples)).astype(np.float32)
    elif disturbance == "offset":
        samples += 0.2
    elif disturbance == "hum":
        samples += 0.005 * np.sin(2 * np.pi * 50 * n / SAMPLE_RATE).astype(np.float32)
    else:
        samples[100:300] = float(disturbance)
    assert_close(speech_spans(samples), SPOKEN)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0),
        np.zeros(5),
        np.zeros(SAMPLE_RATE),
        np.full(SAMPLE_RATE, 0.5),
        np.full(SAMPLE_RATE, np.nan),
        np.full(SAMPLE_RATE, np.inf),
        1e-5 * RNG.standard_normal(SAMPLE_RATE),
        0.1 * RNG.standard_normal(SAMPLE_RATE),
        0.5 * np.sin(np.arange(3 * SAMPLE_RATE) * 0.2),
    ],
    ids=["empty", "few", "zeros", "constant", "nan", "inf", "rounding", "hiss", "tone"],
)
def test_no_speech(samples):
    assert speech_spans(samples) == []


def test_short_pause_is_bridged_and_click_is_dropped():
    samples = np.concatenate([silence(500), voice(1000), silence(200), voice(1000), silence(1000)])
    assert len(speech_spans(samples)) == 1
    samples[-SAMPLE_RATE // 2 :][:160] = 0.9
    assert len(speech_spans(samples)) == 1


def test_stereo_is_refused():
    with pytest.raises(UsageError, match="one channel"):
        speech_spans(np.zeros((100, 2)))


@settings(deadline=None)  # the time of one example says nothing on a busy machine
@given(st.lists(st.tuples(st.integers(1, 9000), st.floats(0, 2, width=32)), max_size=8))
def test_spans_are_ordered_apart_and_inside(parts):
    samples = np.concatenate([np.zeros(0), *(level * RNG.uniform(-1, 1, n) for n, level in parts)])
    edges = [edge for span in speech_spans(samples) for edge in span]
    assert edges == sorted(set(edges))
    assert all(0 <= edge <= len(samples) * 1000 // SAMPLE_RATE and edge % FRAME_MS == 0 for edge in edges)
