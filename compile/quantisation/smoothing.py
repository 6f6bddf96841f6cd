"""SmoothQuant (Xiao et al. 2023, arXiv 2211.10438): channels with outliers divided, their rows of weights multiplied.

x W = (x / s) (s W) for any s > 0 for each input channel. A few channels of BERT's activations are twenty times as large
as the others, and one range for the whole tensor leaves the others a few of its 255 steps; after the division all have
like sizes, and weights, with a scale for each output channel, bear the multiplication.

The division is a Mul before the QuantizeLinear. The preceding LayerNormalization could not take it: BERT normalises
after each residual, so that its output is also what the next residual adds.
"""

from __future__ import annotations

import numpy as np

LEAST = 1e-5  # of both sides, as in the paper's code: a channel that is never used says nothing of its scale
# Of the scales: a channel that calibration data leaves at 0 would be multiplied by more than float16 holds. Activations
# are some tens, and a thousand times that is half of its greatest, 65504.
FURTHEST = 1024.0


def smoothing_scales(activations: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """s = max|x|^alpha / max|W|^(1 - alpha), of each input channel, with a geometric mean of 1; (K,) float32.

    Args:
        activations: the greatest size of each channel, (K,).
        weights: the greatest size of each row of the matrix, or of all matrices that read the tensor, (K,).
    """
    x, w = np.maximum(activations, LEAST), np.maximum(weights, LEAST)
    scales = x**alpha / w ** (1 - alpha)
    scales = scales / np.exp(np.log(scales).mean())  # only their proportions count
    return np.clip(scales, 1 / FURTHEST, FURTHEST).astype(np.float32)
