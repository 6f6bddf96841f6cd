"""Pitch of sounds whose pitch is known."""

import numpy as np
import pytest
from audio_signals import noise, vowel

from psamf_edge.audio.framing import to_signal
from psamf_edge.audio.pitch import pitch

INNER = slice(4, -4)  # frames whose window lies inside the sound


@pytest.mark.parametrize("hz", [76.0, 90.0, 123.4, 180.0, 251.7, 333.3, 440.0, 590.0])
def test_steady_vowel(hz):
    track = pitch(to_signal(vowel(hz, 0.6))[0])
    # 0.5 %, a twelfth of a semitone, is what listeners barely tell
    np.testing.assert_allclose(track.hz[INNER], hz, rtol=0.005)
    assert track.correlation[INNER].min() > 0.95


@pytest.mark.parametrize("hz", [100.0, 220.0])
def test_vowel_in_noise(hz):
    sound = vowel(hz, 1.0)
    track = pitch(to_signal(sound + 0.1 * sound.std() * noise(1.0))[0])  # 20 dB
    np.testing.assert_allclose(np.median(track.hz[INNER]), hz, rtol=0.005)
    ratio = 10 * np.log10(track.correlation / (1 - track.correlation))
    assert np.median(ratio[INNER]) == pytest.approx(20, abs=1.5)  # one 40 ms frame guesses the noise's power to 6 %


def test_glide_is_followed():
    track = pitch(to_signal(vowel(200.0, 1.0, glide=0.6))[0])
    seconds = (np.arange(len(track.hz)) + 0.5) * 0.01
    np.testing.assert_allclose(track.hz[INNER], (200.0 * (1 - 0.4 * seconds))[INNER], rtol=0.005)


def test_noise_is_unvoiced():
    track = pitch(to_signal(0.1 * noise(3.0))[0])
    assert np.mean(track.hz > 0) < 0.02  # 40 ms of noise seldom correlate by 0.45


def test_silence_is_unvoiced():
    track = pitch(np.zeros(8000, np.float32))
    assert not track.hz.any()
    assert not track.correlation.any()


def test_one_lost_frame_does_not_break_the_path():
    sound = vowel(150.0, 0.6)
    sound[4000:4160] += 0.5 * noise(0.01)
    track = pitch(to_signal(np.clip(sound, -1, 1))[0])
    voiced = track.hz[INNER][track.hz[INNER] > 0]
    assert np.all(np.abs(np.log2(voiced / 150.0)) < 0.5)  # no octave jump
