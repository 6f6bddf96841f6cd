"""Square, rotated regions of an image and how to sample them: the one place where face pixels are interpolated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from psamf_edge.errors import InputError

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as FER2013's grey faces were made
# Rows sampled at a time: their arrays are small enough (below 128 KiB each) for the C library to keep and reuse;
# those of a whole square it returns and faults in again, which took 2 of 3 ms.
_STRIP = 24


@dataclass(frozen=True)
class Roi:
    """A square of an image: centre x, y and side `size` in pixels, angle in radians, clockwise on the screen."""

    x: float
    y: float
    size: float
    angle: float = 0.0

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., 2) from the square, where it spans [0, 1], to image pixels."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        offset = (points - 0.5) * self.size
        x = self.x + cos * offset[..., 0] - sin * offset[..., 1]
        y = self.y + sin * offset[..., 0] + cos * offset[..., 1]
        return np.stack([x, y], axis=-1)

    def bounds(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the part of an image that `sample` reads: at least one pixel of it."""
        reach = self.size / 2 * (abs(math.cos(self.angle)) + abs(math.sin(self.angle))) + 1  # 1: the next pixel
        left, top = (min(max(int(c - reach), 0), n - 1) for c, n in ((self.x, width), (self.y, height)))
        right, bottom = int(self.x + reach) + 1, int(self.y + reach) + 1
        return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


def check_image(image: np.ndarray) -> None:
    """Raises InputError unless the image is (H, W, 3) uint8 with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"The image is {image.dtype} {image.shape}; it must be uint8 (height, width, 3), RGB, not empty."
        )


def sample(image: np.ndarray, roi: Roi, pixels: int, fill: float | None = None) -> np.ndarray:
    """Bilinear samples of the region, planes (C, pixels, pixels) float32 on the image's scale.

    As in MediaPipe, whose models these samples feed, pixel (i, j) of the result lies at i/pixels, j/pixels of the
    square and integer coordinates are pixel centres, with no half-pixel shift.

    Args:
        image: (H, W, C) uint8 or float32.
        roi: the region; it may reach beyond the image.
        pixels: side of the result.
        fill: value outside the image; None repeats the image's edge.
    """
    offset = (np.arange(pixels, dtype=np.float32) / pixels - np.float32(0.5)) * np.float32(roi.size)  # (P,)
    cos, sin = np.float32(np.cos(roi.angle)), np.float32(np.sin(roi.angle))
    height, width, channels = image.shape
    # Only triples are copied into items: no more of them than is read.
    left, top, right, bottom = roi.bounds(width, height) if channels == 3 else (0, 0, width, height)
    items = _items(image[top:bottom, left:right])  # (h, w)
    samples = np.empty((channels, pixels, pixels), np.float32)
    for start in range(0, pixels, _STRIP):
        down = offset[start : start + _STRIP, None]  # (S, 1)
        x = np.float32(roi.x) + cos * offset - sin * down  # (S, P)
        y = np.float32(roi.y) + sin * offset + cos * down
        strip = samples[:, start : start + _STRIP]  # (C, S, P)
        _sample_at(items, image.dtype, x - np.float32(left), y - np.float32(top), strip)
        if fill is not None:
            strip[:, (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)] = fill
    return samples


def _items(image: np.ndarray) -> np.ndarray:
    """One item a pixel, (H, W). Triples get a fourth byte: NumPy gathers items of four bytes five times as fast."""
    height, width, channels = image.shape
    if channels != 3:
        padded = np.ascontiguousarray(image)
    else:
        padded = np.empty((height, width, 4), image.dtype)
        for channel in range(channels):  # a fifth of the time that one assignment of triples takes
            padded[..., channel] = image[..., channel]
    return padded.view(f"V{padded.strides[1]}")[..., 0]


def _sample_at(items: np.ndarray, dtype: np.dtype, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Bilinear samples of `items`, pixels of `dtype`, at places (S, P), written to planes (C, S, P)."""
    height, width = items.shape
    left, to_right = _split(x, width)
    top, down = _split(y, height)
    index = (top * np.int32(width) + left).astype(np.intp)  # (S, P)
    right, below = min(width - 1, 1), min(height - 1, 1) * width  # steps to the next pixel
    flat = items.reshape(-1)

    def planes(step: int) -> np.ndarray:
        """Colours `step` pixels on, as (C, S, P): NumPy mixes whole planes ten times as fast as triples."""
        colours = flat[step:].take(index).view(dtype).reshape(*index.shape, -1)[..., : len(out)]  # (S, P, C)
        return colours.transpose(2, 0, 1).astype(np.float32, order="C", copy=False)

    upper = _mix(planes(0), planes(right), to_right)
    lower = _mix(planes(below), planes(below + right), to_right)
    out[:] = _mix(upper, lower, down)


def _split(position: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixel before each place along an axis, int32, and how far on the place lies; outside, the edge counts."""
    inside = np.clip(position, 0, length - 1)
    before = np.floor(np.minimum(inside, max(length - 2, 0)))  # the last pixel lies a whole step behind its neighbour
    inside -= before
    return before.astype(np.int32), inside


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """first + (second - first) * weight, in the memory of `second`."""
    second -= first
    second *= weight
    second += first
    return second
