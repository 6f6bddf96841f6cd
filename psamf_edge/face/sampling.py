"""Square, rotated regions of an image and how to sample them: the one place where face pixels are interpolated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from psamf_edge.errors import InputError

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as FER2013's grey faces were made
# Places and weights are in units of 2^-_BITS pixels: the finest whose products with a difference of two bytes, up to
# 255 * 128, fit int16. That halves the memory that float32 moves, and with it most of the time.
_BITS = 7
_FRACTION = np.int32((1 << _BITS) - 1)  # the bits of a place that say how far it lies behind its pixel
_HALF = np.int16(1 << _BITS - 1)
_FOUR_INT16 = np.uint64(0x0001_0001_0001_0001)
# Rows sampled at a time: their arrays are small enough (below 128 KiB each) for the C library to keep and reuse;
# larger ones it may return and fault in again.
_STRIP = 64


@dataclass(frozen=True)
class Roi:
    """A square of an image: centre x, y and side `size` in pixels, angle in radians, clockwise on the screen."""

    x: float
    y: float
    size: float
    angle: float = 0.0

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., 2) from the square, where it spans [0, 1], to image pixels."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        offset = (points - 0.5) * self.size
        x = self.x + cos * offset[..., 0] - sin * offset[..., 1]
        y = self.y + sin * offset[..., 0] + cos * offset[..., 1]
        return np.stack([x, y], axis=-1)

    def from_image(self, points: np.ndarray) -> np.ndarray:
        """The inverse of `to_image`: image pixels (..., 2) to places in the square."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = points[..., 0] - self.x, points[..., 1] - self.y
        return np.stack([cos * x + sin * y, cos * y - sin * x], axis=-1) / self.size + 0.5

    def bounds(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the part of an image that `sample` reads: at least one pixel of it."""
        reach = self.size / 2 * (abs(math.cos(self.angle)) + abs(math.sin(self.angle))) + 1  # 1: the next pixel
        left, top = (min(max(int(c - reach), 0), n - 1) for c, n in ((self.x, width), (self.y, height)))
        right, bottom = int(self.x + reach) + 1, int(self.y + reach) + 1
        return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


@dataclass(frozen=True)
class Patch:
    """Samples of a region. pixels: (3, P, P) uint8, RGB planes; roi: where they lie in the image."""

    pixels: np.ndarray
    roi: Roi


def check_image(image: np.ndarray) -> None:
    """Raises InputError unless the image is (H, W, 3) uint8 with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"The image is {image.dtype} {image.shape}; it must be uint8 (height, width, 3), RGB, not empty."
        )


def sample(image: np.ndarray, roi: Roi, pixels: int, fill: int | None = None) -> np.ndarray:
    """Bilinear samples of the region, planes (C, pixels, pixels) uint8; rounded, at places rounded to 1/128 pixel.

    As in MediaPipe, whose models these samples feed, pixel (i, j) of the result lies at i/pixels, j/pixels of the
    square and integer coordinates are pixel centres, with no half-pixel shift.

    Args:
        image: (H, W, C) uint8, C 1 or 3.
        roi: the region; it may reach beyond the image.
        pixels: side of the result.
        fill: value outside the image; None repeats the image's edge.
    """
    height, width, channels = image.shape
    left, top, right, bottom = roi.bounds(width, height)  # no more pixels are copied into items than are read
    items = _items(image[top:bottom, left:right])
    step = np.arange(pixels) / pixels - 0.5
    # Along a row of the square the place moves by (across, down), along a column by (-down, across).
    across, down = (_fixed(step * roi.size * part) for part in (math.cos(roi.angle), math.sin(roi.angle)))  # (P,)
    x, y = across + _fixed(roi.x - left), down + _fixed(roi.y - top)
    last_x, last_y = (right - left - 1) << _BITS, (bottom - top - 1) << _BITS
    corners = [(x[j] - down[i], y[j] + across[i]) for i in (0, -1) for j in (0, -1)]
    inside = all(0 <= at_x <= last_x and 0 <= at_y <= last_y for at_x, at_y in corners)  # in most frames
    samples = np.empty((channels, pixels, pixels), np.uint8)
    for start in range(0, pixels, _STRIP):
        rows = slice(start, start + _STRIP)
        strip_x, strip_y = x - down[rows, None], y + across[rows, None]  # (S, P)
        strip = samples[:, rows]  # (C, S, P)
        if fill is not None and not inside:
            x_outside = (strip_x < -(left << _BITS)) | (strip_x > (width - 1 - left) << _BITS)
            y_outside = (strip_y < -(top << _BITS)) | (strip_y > (height - 1 - top) << _BITS)
        if not inside:
            for place, last in ((strip_x, last_x), (strip_y, last_y)):
                np.minimum(np.maximum(place, 0, out=place), last, out=place)  # half the time of np.clip
        _sample_at(items, right - left, strip_x, strip_y, strip)
        if fill is not None and not inside:
            strip[:, x_outside | y_outside] = fill
    return samples


def _fixed(position: np.ndarray | float) -> np.ndarray:
    """Pixels in units of 2^-_BITS, int32: reaches 16 million pixels."""
    return np.rint(np.multiply(position, 1 << _BITS)).astype(np.int32)


def _items(image: np.ndarray) -> np.ndarray:
    """One item a pixel, row by row, (H * W + W + 1,): the last W + 1 are neighbours beyond the edge, of weight 0.

    Triples are read as the first three bytes of four: NumPy gathers items of four bytes five times as fast.
    """
    height, width, channels = image.shape
    count = height * width
    items = np.zeros(count + width + 1, np.uint8 if channels == 1 else np.uint32)
    if channels == 1:
        items[:count].reshape(height, width)[...] = image[..., 0]
    else:
        triples = np.empty(3 * count + 1, np.uint8)  # the last one, too, is followed by a byte
        triples[:-1].reshape(image.shape)[...] = image
        items[:count] = np.ndarray(count, np.uint32, triples, strides=(3,))
    return items


def _sample_at(items: np.ndarray, width: int, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Bilinear samples at places (S, P) inside an image of that width, written to planes (C, S, P).

    The places are in units of 2^-_BITS pixels; their memory is used for other things.
    """
    bytes_each = items.itemsize
    to_right, to_below = _repeated(x & _FRACTION, bytes_each), _repeated(y & _FRACTION, bytes_each)  # (S, P * bytes)
    x >>= _BITS
    y >>= _BITS
    y *= np.int32(width)
    y += x
    index = y.astype(np.intp)  # (S, P)

    def pixels(step: int) -> np.ndarray:
        return items[step:].take(index).view(np.uint8).astype(np.int16)  # (S, P * bytes)

    upper = _mix(pixels(0), pixels(1), to_right)
    lower = _mix(pixels(width), pixels(width + 1), to_right)
    mixed = _mix(upper, lower, to_below).reshape(*index.shape, bytes_each)  # (S, P, bytes)
    for channel in range(len(out)):
        out[channel] = mixed[..., channel]


def _repeated(weight: np.ndarray, times: int) -> np.ndarray:
    """(S, P) to (S, P * times) int16, each weight repeated 1 or 4 times: a product does it in a third of the time."""
    if times == 1:
        return weight.astype(np.int16)
    return (weight.astype(np.uint64) * _FOUR_INT16).view(np.int16)


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """first + (second - first) * weight / 2^_BITS, rounded, in the memory of `second`; no step leaves int16."""
    second -= first
    second *= weight
    second += _HALF
    second >>= _BITS
    second += first
    return second
