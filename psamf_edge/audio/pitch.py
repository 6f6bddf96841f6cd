"""Fundamental frequency and harmonicity by autocorrelation.

Follows Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
sampled sound", IFA Proceedings 17 (1993): the windowed frame's autocorrelation divided by the window's own, a few
candidates a frame, and the cheapest path through them. His costs are kept, because they were tuned on speech.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.audio.framing import HOP_MS, SAMPLE_RATE, frame_blocks, frame_count
from psamf_edge.audio.spectral import hann

LOWEST_HZ = 75.0  # creaky male voices
HIGHEST_HZ = 600.0  # shouted and frightened speech
WINDOW = round(3 * SAMPLE_RATE / LOWEST_HZ)  # samples: three periods of the lowest voice, as Boersma asks
FFT_SIZE = 864  # at least WINDOW plus the longest lag, so that nothing wraps onto the lags of use; 2**5 * 3**3 is fast
CANDIDATES = 4  # voiced ones a frame: the true period, its double, its half and one spare
VOICING_THRESHOLD = 0.45
SILENCE_THRESHOLD = 0.03  # of the utterance's highest peak
OCTAVE_COST = 0.01  # for each octave down: a period's multiples correlate as well as the period itself
OCTAVE_JUMP_COST = 0.35 * 10 / HOP_MS  # Boersma's costs are for steps of 10 ms
VOICING_COST = 0.14 * 10 / HOP_MS
ROUNDING = np.float32(1e-7)  # of a correlation: three lags flatter than this have no vertex to find
NO_CANDIDATE = np.float32(-1e3)  # strength of an empty place: finite, and no path takes it

_SHORTEST = int(SAMPLE_RATE / HIGHEST_HZ)  # samples
_LONGEST = int(np.ceil(SAMPLE_RATE / LOWEST_HZ))  # samples
_LAGS = np.arange(_SHORTEST - 1, _LONGEST + 2)  # samples; one more at each end shows whether the last ones are peaks
_BINS = np.arange(FFT_SIZE // 2 + 1)
_HANN = hann(WINDOW)


def _transform() -> np.ndarray:
    """Power spectrum to autocorrelation as one matrix (bins, 1 + lags), lag 0 first and window-corrected, float32.

    Only a quarter of the lags is of use, so a matrix product beats the inverse FFT.
    """
    lags = np.concatenate([[0], _LAGS])
    window = np.fft.irfft(np.square(np.abs(np.fft.rfft(_HANN, FFT_SIZE))), FFT_SIZE)[lags]  # (1 + lags,)
    cosines = np.cos(2 * np.pi / FFT_SIZE * _BINS[:, None] * lags)  # (bins, 1 + lags)
    cosines[1:-1] *= 2.0  # bins other than 0 and Nyquist stand for two
    return (cosines * (window[0] / window)).astype(np.float32)


_TRANSFORM = _transform()


@dataclass(frozen=True)
class Pitch:
    """One value a frame, float32 (T,)."""

    hz: np.ndarray  # 0 where unvoiced
    correlation: np.ndarray  # height of the autocorrelation's peak, [0, 1]; where unvoiced, of the best candidate


def pitch(signal: np.ndarray) -> Pitch:
    """Track the pitch of a clean signal (N,), N >= 1. Digital silence is unvoiced with correlation 0."""
    count = frame_count(len(signal))
    hz = np.empty((count, CANDIDATES), np.float32)
    height = np.empty((count, CANDIDATES), np.float32)
    peak = np.empty(count, np.float32)
    for block, frames in frame_blocks(signal, WINDOW):
        centred = frames - frames.mean(axis=1, keepdims=True)  # (block, WINDOW)
        peak[block] = np.maximum(centred.max(axis=1), -centred.min(axis=1))
        hz[block], height[block] = _candidates(_autocorrelation(centred))
    strength = _strengths(hz, height, peak)  # (T, 1 + CANDIDATES), unvoiced first
    path = _best_path(strength, hz)  # (T,)
    rows = np.arange(count)
    voiced = path > 0
    chosen = np.maximum(path - 1, 0)
    correlation = np.where(voiced, height[rows, chosen], height.max(axis=1))
    return Pitch(np.where(voiced, hz[rows, chosen], np.float32(0)), np.clip(correlation, 0.0, 1.0))


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """Of frames (block, WINDOW): normalised and corrected for the window, at _LAGS: (block, lags)."""
    spectrum = np.fft.rfft(frames * _HANN, FFT_SIZE)  # (block, bins)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32, copy=False)
    correlation = power @ _TRANSFORM  # (block, 1 + lags)
    energy = correlation[:, :1]
    return correlation[:, 1:] / np.where(energy > 0, energy, np.float32(1))


def _candidates(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hz and heights of the best peaks, best first: (block, CANDIDATES) each; height 0 where there is none."""
    left, middle, right = correlation[:, :-2], correlation[:, 1:-1], correlation[:, 2:]
    lags = _LAGS[1:-1].astype(np.float32)
    score = middle - np.float32(OCTAVE_COST) * np.log2(lags)  # (block, lags)
    score[~((middle > left) & (middle >= right) & (middle > 0))] = NO_CANDIDATE
    rows = np.arange(len(score))
    hz = np.empty((len(score), CANDIDATES), np.float32)
    height = np.empty_like(hz)
    for place in range(CANDIDATES):
        best = score.argmax(axis=1)  # (block,)
        found = score[rows, best] > NO_CANDIDATE
        score[rows, best] = NO_CANDIDATE
        before, at, after = left[rows, best], middle[rows, best], right[rows, best]
        bend = np.minimum(before - 2 * at + after, -ROUNDING)
        shift = np.clip(0.5 * (before - after) / bend, -0.5, 0.5)  # vertex of the parabola through three lags
        top = at - 0.25 * (before - after) * shift
        top = np.where(top > 1, 1 / np.maximum(top, 1), top)  # a correlation above 1 is as doubtful as one below
        hz[:, place] = np.where(found, SAMPLE_RATE / (lags[best] + shift), np.float32(LOWEST_HZ))
        height[:, place] = np.where(found, top, np.float32(0))
    return hz, height


def _strengths(hz: np.ndarray, height: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Boersma's strengths of being unvoiced and of each candidate: (T, 1 + CANDIDATES)."""
    loudness = peak / max(float(peak.max()), np.finfo(np.float32).tiny)  # (T,)
    quiet = np.maximum(0.0, 2.0 - loudness * (1.0 + VOICING_THRESHOLD) / SILENCE_THRESHOLD)
    inside = (height > 0) & (hz >= LOWEST_HZ) & (hz <= HIGHEST_HZ)
    voiced = np.where(inside, height - OCTAVE_COST * np.log2(LOWEST_HZ / hz), NO_CANDIDATE)
    return np.column_stack([VOICING_THRESHOLD + quiet, voiced]).astype(np.float32)


def _best_path(strength: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """Viterbi through the candidates: for each frame the column of `strength` that the best path takes, (T,)."""
    octave = np.log2(hz)  # (T, CANDIDATES)
    cost = np.full((max(len(hz), 1) - 1, 1 + CANDIDATES, 1 + CANDIDATES), VOICING_COST, np.float32)  # (T - 1, to, from)
    cost[:, 0, 0] = 0.0
    cost[:, 1:, 1:] = OCTAVE_JUMP_COST * np.abs(octave[1:, :, None] - octave[:-1, None, :])
    places = np.arange(1 + CANDIDATES)
    total = strength[0]
    came_from = np.empty((len(cost), 1 + CANDIDATES), np.intp)
    for step, (gain, price) in enumerate(zip(strength[1:], cost, strict=True)):
        reached = total - price  # (to, from)
        best = reached.argmax(axis=1)
        came_from[step] = best
        total = reached[places, best] + gain
    path = np.empty(len(hz), np.intp)
    path[-1] = total.argmax()
    for step in range(len(cost) - 1, -1, -1):
        path[step] = came_from[step, path[step + 1]]
    return path
