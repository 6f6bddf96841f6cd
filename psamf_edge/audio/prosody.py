"""Ten measures of how something is said: pitch, loudness and voice quality for each frame."""

from __future__ import annotations

import numpy as np

from psamf_edge.audio.framing import HOP, HOP_MS, frame_count
from psamf_edge.audio.pitch import pitch
from psamf_edge.audio.spectral import WINDOW, Spectra, spectral_flux, spectral_tilt
from psamf_edge.features import Feature

SEMITONE_REFERENCE_HZ = 27.5  # the lowest A, as in eGeMAPS: every voice lies well above 0, which means unvoiced
LOWEST_POWER = 1e-10  # -100 dB of full scale, the rounding noise of 16 bits: what digital silence reads
HARMONIC_RANGE = (0.01, 0.9999)  # correlations outside are limits of the method: -20 dB and +40 dB

PROSODY = (
    Feature("f0", "semitone", "fundamental frequency above 27.5 Hz; 0 when unvoiced"),
    Feature("f0_delta", "semitone/s", "slope of f0 over the neighbouring frames; 0 unless all three are voiced"),
    Feature("voicing", "1", "height of the autocorrelation's peak, 0 to 1"),
    Feature("harmonicity", "dB", "harmonics-to-noise ratio, -20 to 40"),
    Feature("level", "dB", "power relative to full scale, at least -100: the one measure of absolute level"),
    Feature("level_delta", "dB/s", "slope of the level over the neighbouring frames"),
    Feature("zero_crossing_rate", "1", "sign changes for each sample of the frame"),
    Feature("spectral_centroid", "Hz", "mean frequency weighted by power; 0 in silence"),
    Feature("spectral_flux", "dB", "mean absolute change of the mel bands since the frame before"),
    Feature("spectral_tilt", "dB/octave", "slope of the mel bands' levels over log frequency"),
)


def prosody(signal: np.ndarray, spectra: Spectra) -> np.ndarray:
    """The PROSODY of a clean signal (N,), N >= 1, whose spectra are given: (T, 10) float32."""
    track = pitch(signal)
    voiced = track.hz > 0  # (T,)
    f0 = 12.0 * np.log2(np.where(voiced, track.hz / SEMITONE_REFERENCE_HZ, 1.0))  # (T,)
    around = np.convolve(voiced, np.ones(3), mode="full")[1:-1] == 3  # (T,) the frame and both neighbours are voiced
    harmonic = np.clip(track.correlation, *HARMONIC_RANGE)
    level = 10.0 * np.log10(np.maximum(spectra.power, LOWEST_POWER))
    columns = [
        f0,
        np.where(around, _slope(f0), 0.0),
        track.correlation,
        10.0 * np.log10(harmonic / (1.0 - harmonic)),
        level,
        _slope(level),
        _zero_crossing_rate(signal),
        spectra.centroid,
        spectral_flux(spectra.log_mel),
        spectral_tilt(spectra.log_mel),
    ]
    return np.column_stack(columns).astype(np.float32)  # (T, 10)


def _slope(values: np.ndarray) -> np.ndarray:
    """Central difference of (T,) for each second; the ends repeat their neighbour, one frame has slope 0."""
    extended = np.pad(values, 1, mode="edge")
    return (extended[2:] - extended[:-2]) / (2 * HOP_MS / 1000)


def _zero_crossing_rate(signal: np.ndarray) -> np.ndarray:
    """Sign changes inside each frame of WINDOW samples, divided by WINDOW: (T,)."""
    changes = np.zeros(len(signal) + 1, np.int64)
    np.cumsum(np.diff(signal >= 0), out=changes[2:])  # changes[i]: before sample i
    start = np.arange(frame_count(len(signal))) * HOP - (WINDOW - HOP) // 2  # (T,)
    first, last = (np.clip(edge, 0, len(signal)) for edge in (start + 1, start + WINDOW))
    return (changes[last] - changes[np.minimum(first, last)]) / WINDOW
