"""Sequences of different lengths to one array and its mask."""

from __future__ import annotations

import numpy as np


def pad(sequences: list[np.ndarray], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (T_i, ...) to one array (B, T, ...) padded with zeros at the end, and its mask (B, T)."""
    longest = max(1, *(len(s) for s in sequences))  # at least one step: a convolution needs something to slide over
    out = np.zeros((len(sequences), longest, *sequences[0].shape[1:]), dtype)
    mask = np.zeros((len(sequences), longest), np.float32)
    for row, sequence in enumerate(sequences):
        out[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1.0
    return out, mask
