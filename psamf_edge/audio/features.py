"""The voice as a sequence of 63 measures every 10 ms: the one code that training and running share.

A slice is described from itself alone (its mean, its level, its pitch path), so that a short file of a corpus and an
utterance cut out of a clip mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.audio.framing import HOP_MS, SAMPLE_RATE, to_signal
from psamf_edge.audio.prosody import PROSODY, prosody
from psamf_edge.audio.spectral import MEL_BANDS, MFCC_COUNT, mfcc, spectra
from psamf_edge.features import Feature

__all__ = ["AUDIO_FEATURES", "HOP_MS", "SAMPLE_RATE", "AudioFeatures", "extract", "extract_counted"]

AUDIO_FEATURES: tuple[Feature, ...] = (
    *(
        Feature(f"log_mel_{i}", "1", f"natural log of the power in mel band {i}, level normalised")
        for i in range(MEL_BANDS)
    ),
    *(Feature(f"mfcc_{i}", "1", f"coefficient {i} of the orthonormal DCT-II of log-mel") for i in range(MFCC_COUNT)),
    *PROSODY,
)


@dataclass(frozen=True)
class AudioFeatures:
    """Features of one stretch of sound, and how many of its samples were no numbers and count as silence."""

    values: np.ndarray  # (T, 63) float32, finite; columns: AUDIO_FEATURES
    bad_samples: int


def extract_counted(samples: np.ndarray) -> AudioFeatures:
    """Describe one channel of sound.

    Args:
        samples: (N,) at 16 kHz, float in [-1, 1] or int16. NaN and infinities count as silence.

    Returns:
        T = ceil(N / 160) frames; frame t is centred on (t + 0.5) * 10 ms. No samples give (0, 63).

    Raises:
        UsageError: not one channel, or neither float nor int16.
    """
    signal, bad = to_signal(samples)
    if not signal.size:
        return AudioFeatures(np.zeros((0, len(AUDIO_FEATURES)), np.float32), bad)
    found = spectra(signal)
    values = np.hstack([found.log_mel, mfcc(found.log_mel), prosody(signal, found)])  # (T, 63)
    return AudioFeatures(values, bad)


def extract(samples: np.ndarray) -> np.ndarray:
    """The values of `extract_counted`: float32 (T, 63)."""
    return extract_counted(samples).values
