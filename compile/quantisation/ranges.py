"""How an activation is quantised: the range that its eight bits are spread over, and a smoothing of its channels.

Both are searched together, for the least squared error of the products that read the tensor, on rows of real data:

    | Q(x / s) Q(s W) - x W |^2

over alphas of the smoothing and ranges below the greatest value seen. The whole range keeps a rare great value and
leaves all others few steps; a part of it cuts that value off, and only the product says which is worse. What is tried
comes from one half of the samples and is judged on the other, since a strong smoothing rests on the greatest value of
each single channel, and cuts off in new data what few samples did not show. The other ways, ranges from the greatest
value, percentiles and the error of the activation itself, are measured by benchmarks/calibration.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.compile.quantisation.formats import Format
from psamf_edge.compile.quantisation.smoothing import smoothing_scales

ALPHAS = (None, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # None: no channel is scaled
FACTORS = (0.55, 0.7, 0.8, 0.9, 1.0)  # of the greatest value


@dataclass(frozen=True)
class Activation:
    """How a tensor is quantised.

    products: the names of the nodes that read it so.
    greatest: the value that becomes the greatest of the format, after the smoothing.
    smoothing: what each channel is divided by, (K,) float32; None: nothing.
    """

    products: tuple[str, ...]
    greatest: float
    smoothing: np.ndarray | None = None


@dataclass(frozen=True)
class Seen:
    """A tensor on calibration data.

    products: the names of the nodes that read it. matrices: of each, (K, N) float32.
    peak: the greatest size of each channel over all samples, (K,).
    half_peak: the same over every other sample. rows: some rows of the others, (R, K).
    """

    products: tuple[str, ...]
    matrices: tuple[np.ndarray, ...]
    peak: np.ndarray
    half_peak: np.ndarray
    rows: np.ndarray

    def smoothing(self, alpha: float | None, peak: np.ndarray) -> np.ndarray | None:
        """What each channel is divided by, (K,)."""
        if alpha is None:
            return None
        weights = np.max([np.abs(matrix).max(axis=1) for matrix in self.matrices], axis=0)  # (K,)
        return smoothing_scales(peak, weights, alpha)

    def quantised(self, alpha: float | None, factor: float) -> Activation:
        """With the range and the smoothing that all samples give."""
        smoothing = self.smoothing(alpha, self.peak)
        widest = float((self.peak / (1.0 if smoothing is None else smoothing)).max())
        return Activation(self.products, factor * widest, smoothing)


Activations = dict[str, dict[str, Activation]]  # of a part's name: of a tensor's name


def choose(seen: Seen, form: Format) -> Activation:
    """The smoothing of ALPHAS and the range of FACTORS with the least error of the products."""
    wanted, errors = seen.rows @ np.hstack(seen.matrices), {}  # (R, all N)
    for alpha in ALPHAS:
        smoothing = seen.smoothing(alpha, seen.half_peak)
        divisor = np.ones_like(seen.peak) if smoothing is None else smoothing  # (K,)
        rows, widest = seen.rows / divisor, float((seen.half_peak / divisor).max())
        matrix = np.hstack([quantised_weight(each * divisor[:, None], form) for each in seen.matrices])
        for factor in FACTORS:
            difference = quantised(rows, factor * widest, form) @ matrix - wanted
            errors[alpha, factor] = float(np.square(difference).mean(dtype=np.float64))
    return seen.quantised(*min(errors, key=errors.get))


def quantised(values: np.ndarray, greatest: np.ndarray | float, form: Format) -> np.ndarray:
    """Values after Q and DQ with this range."""
    scale = greatest / form.greatest
    return form.round(values / scale) * scale


def quantised_weight(matrix: np.ndarray, form: Format) -> np.ndarray:
    """A matrix (K, N) after Q and DQ."""
    return quantised(matrix, weight_range(matrix, 1, form), form)


def weight_range(matrix: np.ndarray, axis: int, form: Format) -> np.ndarray:
    """The greatest size in a matrix, or of each of its channels along `axis`, both axes kept; 1 for zeros alone."""
    peak = np.abs(matrix).max(axis=1 - axis if form.by_channel else None, keepdims=True)
    return np.where(peak > 0, peak, np.float32(1))
