"""The two eight-bit numbers that Q/DQ nodes know for products: signed integers, and E4M3, NVIDIA's fp8.

Each has the same three parts: the greatest value, rounding to the nearest number that there is, and the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

GREATEST_INT8 = 127.0  # a range is symmetric: -128 is beyond its end
# E4M3FN (Micikevicius et al. 2022, arXiv 2209.05433): 4 bits of exponent with a bias of 7, 3 of mantissa, no infinity
GREATEST_FP8 = 448.0
LEAST_EXPONENT, EXPONENT_BIAS, MANTISSA = -6, 7, 8  # below 2^-6 the steps stay what they are at it


@dataclass(frozen=True)
class Format:
    """An eight-bit number.

    kind: its type in an ONNX file. greatest: what a range is scaled to. by_channel: whether a weight has a scale for
    each output channel. round: values to the nearest of the format, beyond the greatest to it. bits: rounded values to
    (...) int8 or uint8 as the file holds them.
    """

    name: str
    kind: int
    greatest: float
    by_channel: bool
    round: Callable[[np.ndarray], np.ndarray]
    bits: Callable[[np.ndarray], np.ndarray]


def round_int8(values: np.ndarray) -> np.ndarray:
    """To integers in [-128, 127], halves to the even one, as QuantizeLinear has it."""
    return np.clip(np.rint(values), -GREATEST_INT8 - 1, GREATEST_INT8)


def round_fp8(values: np.ndarray) -> np.ndarray:
    """To the nearest E4M3 number, halves to the even mantissa; saturating at 448."""
    clipped = np.clip(values, -GREATEST_FP8, GREATEST_FP8)
    step = np.ldexp(np.float32(1 / MANTISSA), _exponents(clipped))  # between two neighbours
    return np.rint(clipped / step) * step


def fp8_bits(values: np.ndarray) -> np.ndarray:
    """E4M3 numbers to their bits, uint8."""
    size, exponents = np.abs(values), _exponents(values)
    mantissas = np.rint(size / np.ldexp(1.0, exponents) * MANTISSA).astype(int)  # 8 to 15, and below 8 a subnormal
    biased = np.where(mantissas < MANTISSA, 0, exponents + EXPONENT_BIAS)
    return (np.signbit(values) * 128 + biased * MANTISSA + mantissas % MANTISSA).astype(np.uint8)


def _exponents(values: np.ndarray) -> np.ndarray:
    """floor(log2 |x|), but at least the least exponent."""
    return np.maximum(np.frexp(values)[1] - 1, LEAST_EXPONENT)


INT8 = Format("int8", TensorProto.INT8, GREATEST_INT8, True, round_int8, lambda values: values.astype(np.int8))
# NVIDIA's own tools give fp8 weights one scale for the whole tensor: a floating point number needs no more
FP8 = Format("fp8", TensorProto.FLOAT8E4M3FN, GREATEST_FP8, False, round_fp8, fp8_bits)
FORMATS = {"int8": INT8, "fp8": FP8}  # by the precision of a bundle
