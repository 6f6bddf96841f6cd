"""Where somebody speaks, from loudness alone: enough to cut a clip at its pauses, with no model to load."""

from __future__ import annotations

import numpy as np

from psamf_edge.errors import UsageError
from psamf_edge.media.protocol import SAMPLE_RATE

FRAME_MS = 10  # the hop of the audio features: finer steps move no cut
PRE_EMPHASIS = 0.7  # takes away two thirds of mains hum; the usual 0.97 buries voices in hiss (measured)
FLOOR_PERCENTILE = 10  # even tight talk is quiet (closures, breaths) a tenth of the time
PEAK_PERCENTILE = 95  # a click or two must not set the level of the voice
MIN_RANGE_DB = 6.0  # noise and tones stay within 3 dB from frame to frame; the quietest talk spans over 15 dB
MAX_RANGE_DB = 50.0  # a digital zero must not drag the floor below what a room has
THRESHOLD = 0.35  # of the way from floor to peak in dB: above breath, below weak syllables
BLOCK_FRAMES = 4096  # 40 s at a time: a clip of hours is not copied as a whole
SILENT_DB = -70.0  # peaks under this (3 steps of 16 bits after pre-emphasis) are rounding, not sound
MIN_PAUSE_MS = 400  # shorter gaps are stops and hesitations inside a phrase
MIN_SPEECH_MS = 250  # a lone syllable; shorter bursts are clicks and coughs
LEAD_MS = 50  # weak onsets (f, h) lie under the threshold
HANGOVER_MS = 150  # fading endings do too, for longer; with LEAD_MS still under MIN_PAUSE_MS


def speech_spans(samples: np.ndarray) -> list[tuple[int, int]]:
    """Times at which somebody speaks, in order and apart by at least MIN_PAUSE_MS - LEAD_MS - HANGOVER_MS.

    Args:
        samples: float (N,), 16 kHz mono, nominally in [-1, 1]; NaN and infinities count as silence.

    Returns:
        [(start_ms, end_ms), ...]; empty for silence and for steady sounds such as hiss and tones.

    Raises:
        UsageError: `samples` is not one channel.
    """
    samples = np.asarray(samples, dtype=np.float32)  # (N,)
    if samples.ndim != 1:
        raise UsageError(f"speech_spans got samples of shape {samples.shape}; it takes one channel, (N,).")
    hop = SAMPLE_RATE * FRAME_MS // 1000
    count = len(samples) // hop
    if count == 0:
        return []
    loud = _loud_frames(samples[: count * hop].reshape(count, hop))  # (count,)
    edges = np.flatnonzero(np.diff(loud, prepend=False, append=False)) * FRAME_MS
    spans: list[tuple[int, int]] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if spans and start - spans[-1][1] < MIN_PAUSE_MS:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    limit = count * FRAME_MS
    return [(max(s - LEAD_MS, 0), min(e + HANGOVER_MS, limit)) for s, e in spans if e - s >= MIN_SPEECH_MS]


def _loud_frames(frames: np.ndarray) -> np.ndarray:
    """Which frames (count, hop) stand out of the noise: bool (count,)."""
    blocks = [frames[at : at + BLOCK_FRAMES] for at in range(0, len(frames), BLOCK_FRAMES)]
    offset = sum(_clean(block).sum(dtype=np.float64) for block in blocks) / frames.size  # loud, but no sound
    power = np.empty(len(frames))  # (count,)
    before = None  # the sample in front of the block
    for number, block in enumerate(blocks):
        flat = _clean(block) - np.float32(offset)  # (BLOCK_FRAMES * hop,)
        emphasised = flat - PRE_EMPHASIS * np.concatenate((flat[:1] if before is None else before, flat[:-1]))
        start = number * BLOCK_FRAMES
        power[start : start + len(block)] = np.mean(
            np.square(emphasised.reshape(block.shape), dtype=np.float64), axis=1
        )
        before = flat[-1:]
    level = 10.0 * np.log10(power + 1e-12)  # dB; the constant keeps digital silence finite, at -120 dB
    level = np.convolve(np.pad(level, 1, mode="edge"), np.ones(3) / 3, mode="valid")  # one glottal pulse is no frame
    floor, peak = np.percentile(level, [FLOOR_PERCENTILE, PEAK_PERCENTILE])
    floor = max(floor, peak - MAX_RANGE_DB)
    if peak < SILENT_DB or peak - floor < MIN_RANGE_DB:
        return np.zeros(len(level), dtype=bool)
    return level > floor + THRESHOLD * (peak - floor)


def _clean(block: np.ndarray) -> np.ndarray:
    """The samples (N,) of some frames, with what is no number as silence and all within [-1, 1]."""
    return np.clip(np.nan_to_num(block, posinf=0.0, neginf=0.0), -1.0, 1.0).ravel()
