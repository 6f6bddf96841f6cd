"""Log-mel bands, MFCC and the shape of the spectrum, all relative to the utterance's own level.

Corpora and phones record at levels 40 dB apart, which says nothing about the speaker. Power is therefore scaled so that
the loud frames of the utterance lie at REFERENCE_POWER before any logarithm; only `Spectra.power` keeps the absolute
level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.audio.framing import SAMPLE_RATE, frame_blocks, frame_count

WINDOW = 400  # samples, 25 ms: two to three pitch periods, short enough for a plosive
FFT_SIZE = 512  # next power of two
MEL_BANDS = 40
MFCC_COUNT = 13  # the envelope of the vocal tract; higher ones follow the pitch harmonics
LOWEST_HZ, HIGHEST_HZ = 20.0, 8000.0
LOUD_PERCENTILE = 95  # of frame power: the stressed vowels, whatever the share of pauses; a click cannot set it
REFERENCE_POWER = 1e-2  # -20 dB of full scale, where speech is usually levelled
QUIETEST_POWER = 1e-8  # -80 dB: what is quieter is rounding of 16 bits and is not blown up
POWER_FLOOR = 1e-6  # 40 dB under REFERENCE_POWER per bin, 55-60 under vowel peaks: room noise of ordinary recordings
DB_PER_NEPER = 10.0 / np.log(10.0)  # of power


@dataclass(frozen=True)
class Spectra:
    """What every frame's power spectrum gives. All but `power` do not depend on the recording's gain."""

    power: np.ndarray  # (T,) mean square, Hann-weighted; absolute, 1 is full scale
    log_mel: np.ndarray  # (T, MEL_BANDS) natural log of the band's mean power density
    centroid: np.ndarray  # (T,) Hz, 0 in silence


def hann(width: int) -> np.ndarray:
    """Periodic Hann window (width,), float32."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)).astype(np.float32)


def mel_filters() -> np.ndarray:
    """Triangles spaced evenly on HTK's scale, mel = 2595 log10(1 + f / 700), as (FFT_SIZE // 2 + 1, MEL_BANDS) float32.

    Each sums to 1, so that a band is a mean density: white noise is flat and one floor suits all bands.
    """
    lowest, highest = (2595.0 * np.log10(1.0 + f / 700.0) for f in (LOWEST_HZ, HIGHEST_HZ))
    corners = 700.0 * (10.0 ** (np.linspace(lowest, highest, MEL_BANDS + 2) / 2595.0) - 1.0)  # Hz, (MEL_BANDS + 2,)
    bins = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1)[:, None]  # Hz, (F, 1)
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])  # (F, MEL_BANDS)
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])  # (F, MEL_BANDS)
    triangles = np.maximum(0.0, np.minimum(rising, falling))  # (F, MEL_BANDS)
    return (triangles / triangles.sum(axis=0)).astype(np.float32)


def dct_basis() -> np.ndarray:
    """The first MFCC_COUNT rows of the orthonormal DCT-II, transposed: (MEL_BANDS, MFCC_COUNT) float32."""
    band = np.arange(MEL_BANDS)[:, None] + 0.5
    basis = np.cos(np.pi / MEL_BANDS * band * np.arange(MFCC_COUNT)) * np.sqrt(
        2.0 / MEL_BANDS
    )  # (MEL_BANDS, MFCC_COUNT)
    basis[:, 0] /= np.sqrt(2.0)
    return basis.astype(np.float32)


def octaves() -> np.ndarray:
    """Least-squares weights (MEL_BANDS,) that turn levels of the bands into a slope for each octave."""
    centres = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1) @ mel_filters()  # Hz, (MEL_BANDS,)
    pitch = np.log2(centres)
    pitch -= pitch.mean()
    return (pitch / (pitch @ pitch)).astype(np.float32)


_HANN = hann(WINDOW)
_HANN_ENERGY = np.float32(np.sum(np.square(_HANN)))
_ONE_SIDED = np.full(
    FFT_SIZE // 2 + 1, 2.0 / FFT_SIZE, np.float32
)  # Parseval: bins other than 0 and Nyquist count twice
_ONE_SIDED[[0, -1]] = 1.0 / FFT_SIZE
_BINS = np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1, dtype=np.float32)  # Hz
# one product gives the bands, the power and the first moment
_PROJECTION = np.column_stack([mel_filters(), _ONE_SIDED, _ONE_SIDED * _BINS])  # (F, MEL_BANDS + 2)
_DCT = dct_basis()
_OCTAVES = octaves()


def spectra(signal: np.ndarray) -> Spectra:
    """Band levels, power and centroid of every frame of a clean signal (N,), N >= 1."""
    projected = np.empty((frame_count(len(signal)), MEL_BANDS + 2), np.float32)  # (T, MEL_BANDS + 2)
    for block, frames in frame_blocks(signal, WINDOW):
        spectrum = np.fft.rfft(frames * _HANN, FFT_SIZE)  # (block, F)
        density = (np.square(spectrum.real) + np.square(spectrum.imag)) / _HANN_ENERGY  # (block, F)
        projected[block] = density.astype(np.float32, copy=False) @ _PROJECTION
    power = projected[:, MEL_BANDS]  # (T,)
    scale = np.float32(REFERENCE_POWER / max(float(np.percentile(power, LOUD_PERCENTILE)), QUIETEST_POWER))
    log_mel = np.log(projected[:, :MEL_BANDS] * scale + np.float32(POWER_FLOOR))  # (T, MEL_BANDS)
    centroid = projected[:, MEL_BANDS + 1] * scale / (power * scale + np.float32(POWER_FLOOR))  # (T,)
    return Spectra(power, log_mel, centroid)


def mfcc(log_mel: np.ndarray) -> np.ndarray:
    """Orthonormal DCT-II of log-mel (T, MEL_BANDS), first coefficients: (T, MFCC_COUNT)."""
    return log_mel @ _DCT


def spectral_flux(log_mel: np.ndarray) -> np.ndarray:
    """Mean absolute change of the bands since the frame before, in dB: (T,), 0 for the first."""
    change = np.abs(np.diff(log_mel, axis=0, prepend=log_mel[:1]))  # (T, MEL_BANDS)
    return change.mean(axis=1) * np.float32(DB_PER_NEPER)


def spectral_tilt(log_mel: np.ndarray) -> np.ndarray:
    """Slope of the least-squares line through the bands' levels over log frequency, in dB an octave: (T,)."""
    return (log_mel @ _OCTAVES) * np.float32(DB_PER_NEPER)
