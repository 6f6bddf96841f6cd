"""Bands and cepstrum against SciPy and an independent filterbank."""

import numpy as np
import pytest
from audio_signals import noise, vowel
from scipy.fft import dct
from scipy.signal import get_window

from psamf_edge.audio.framing import HOP, SAMPLE_RATE, to_signal
from psamf_edge.audio.spectral import (
    FFT_SIZE,
    LOUD_PERCENTILE,
    MEL_BANDS,
    MFCC_COUNT,
    POWER_FLOOR,
    REFERENCE_POWER,
    WINDOW,
    mel_filters,
    mfcc,
    spectra,
)


def test_mfcc_is_scipys_dct():
    log_mel = np.random.default_rng(1).normal(-6, 3, (50, MEL_BANDS)).astype(np.float32)
    expected = dct(log_mel.astype(float), norm="ortho", axis=1)[:, :MFCC_COUNT]
    np.testing.assert_allclose(mfcc(log_mel), expected, atol=1e-4)  # 40 single-precision terms of size 10


def test_mel_filters_are_transformers():
    audio_utils = pytest.importorskip("transformers.audio_utils", reason="transformers comes with the compile extra")
    bank = audio_utils.mel_filter_bank(FFT_SIZE // 2 + 1, MEL_BANDS, 20.0, 8000.0, SAMPLE_RATE, None, "htk")
    np.testing.assert_allclose(mel_filters(), bank / bank.sum(axis=0), atol=1e-6)  # single precision


def test_no_band_is_empty():
    filters = mel_filters()
    np.testing.assert_allclose(filters.sum(axis=0), 1, atol=1e-6)
    assert np.all(np.diff(filters.argmax(axis=0)) >= 0)


def test_log_mel_frame_by_frame():
    """The definition written out in double precision, one frame at a time."""
    signal, _ = to_signal(vowel(130.0, 0.3) + 0.02 * noise(0.3))
    window = get_window("hann", WINDOW)
    padded = np.concatenate([np.zeros(120), signal.astype(float), np.zeros(WINDOW)])
    frames = np.array([padded[t * HOP : t * HOP + WINDOW] * window for t in range(30)])
    density = np.abs(np.fft.rfft(frames, FFT_SIZE)) ** 2 / np.sum(window**2)
    power = np.sum(frames**2, axis=1) / np.sum(window**2)
    scale = REFERENCE_POWER / np.percentile(power, LOUD_PERCENTILE)
    found = spectra(signal)
    np.testing.assert_allclose(found.power, power, rtol=1e-4)  # Parseval, in single precision
    np.testing.assert_allclose(found.log_mel, np.log(density @ mel_filters() * scale + POWER_FLOOR), atol=1e-3)
