"""Deterministic sounds for the voice tests, all float32 at 16 kHz."""

import numpy as np
from scipy.signal import lfilter

RATE = 16_000
FORMANTS_A = ((730.0, 90.0), (1090.0, 110.0), (2440.0, 170.0))  # centre and bandwidth in Hz: Peterson and Barney's "a"


def noise(seconds: float) -> np.ndarray:
    """White noise of unit power."""
    return np.random.default_rng(7).standard_normal(round(seconds * RATE)).astype(np.float32)


def chirp(first_hz: float, last_hz: float, seconds: float) -> np.ndarray:
    """A sine whose frequency moves evenly."""
    t = np.arange(round(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * (first_hz * t + (last_hz - first_hz) * t**2 / (2 * seconds))).astype(np.float32)


def vowel(f0_hz: float, seconds: float, glide: float = 1.0) -> np.ndarray:
    """Harmonics up to 7 kHz, falling 12 dB an octave as a glottis does, through three formants; peak 0.5.

    The fundamental goes from `f0_hz` to `f0_hz * glide`. Harmonics, unlike pulses, give an exact pitch between samples.
    """
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * f0_hz * (t + (glide - 1) * t**2 / (2 * seconds))
    top = int(7000 / (f0_hz * max(glide, 1.0)))
    sound = sum(np.sin(k * phase) / k**2 for k in range(1, top + 1))
    for centre, width in FORMANTS_A:
        radius = np.exp(-np.pi * width / RATE)
        sound = lfilter([1.0], [1.0, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2], sound)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)
