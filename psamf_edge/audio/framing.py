"""Samples to overlapping frames on one 10 ms grid that every voice feature shares."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psamf_edge.errors import UsageError

SAMPLE_RATE = 16_000  # Hz: speech carries its emotion below 8 kHz, and speech corpora are published at this rate
HOP_MS = 10  # the field's step: half the shortest phones
HOP = SAMPLE_RATE * HOP_MS // 1000  # samples
INT16_FULL_SCALE = 32768.0
BLOCK_FRAMES = 128  # a block's spectra (0.5 MB) stay in the second-level cache, and memory does not grow with the clip


def to_signal(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """One channel as clean float32 with its mean removed, and how many samples were no numbers.

    NaN and infinities become silence; what lies outside [-1, 1] is clipped, as a sound card would. The mean goes, for
    an offset is the recorder's, not the speaker's.

    Args:
        samples: (N,) of float in [-1, 1] or int16, 16 kHz.

    Returns:
        float32 (N,) and the number of samples replaced.

    Raises:
        UsageError: not one channel, or of another type.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise UsageError(f"The voice features got samples of shape {samples.shape}; give one channel, (N,).")
    if samples.dtype == np.int16:
        signal, bad = samples.astype(np.float32) / np.float32(INT16_FULL_SCALE), 0
    elif np.issubdtype(samples.dtype, np.floating):
        usable = np.isfinite(samples)
        bad = int(samples.size - np.count_nonzero(usable))
        signal = np.clip(np.where(usable, samples, 0.0), -1.0, 1.0).astype(np.float32)
    else:
        raise UsageError(f"The voice features got {samples.dtype} samples; give int16, or floats in [-1, 1].")
    if signal.size:
        signal -= np.float32(signal.mean(dtype=np.float64))
    return signal, bad


def frame_count(samples: int) -> int:
    """Frames of a signal: ceil(samples / HOP). Frame t is centred on the middle of hop t, at (t + 0.5) * HOP_MS."""
    return -(-samples // HOP)


def frame_blocks(signal: np.ndarray, width: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Frames of `width` samples centred on each hop's middle, BLOCK_FRAMES at a time; zeros lie beyond both ends.

    Yields:
        which frames, and a read-only view of them (block, width).
    """
    count = frame_count(len(signal))
    before = (width - HOP) // 2
    padded = np.zeros((max(count, 1) - 1) * HOP + width, np.float32)
    padded[before : before + len(signal)] = signal
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[::HOP]  # (T, width)
    for start in range(0, count, BLOCK_FRAMES):
        block = slice(start, min(start + BLOCK_FRAMES, count))
        yield block, frames[block]
