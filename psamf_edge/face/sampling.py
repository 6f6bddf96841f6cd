"""Square, rotated regions of an image and how to sample them: the one place where face pixels are interpolated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.errors import InputError

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as FER2013's grey faces were made


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


def check_image(image: np.ndarray) -> None:
    """Raises InputError unless the image is (H, W, 3) uint8 with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(
            f"The image is {image.dtype} {image.shape}; it must be uint8 (height, width, 3), RGB, not empty."
        )


def sample(image: np.ndarray, roi: Roi, pixels: int, fill: float | None = None) -> np.ndarray:
    """Bilinear samples of the region, planes (3, pixels, pixels) float32 in [0, 255].

    As in MediaPipe, whose models these samples feed, pixel (i, j) of the result lies at i/pixels, j/pixels of the
    square and integer coordinates are pixel centres, with no half-pixel shift.

    Args:
        image: (H, W, 3) uint8.
        roi: the region; it may reach beyond the image.
        pixels: side of the result.
        fill: value outside the image; None repeats the image's edge.
    """
    height, width, _ = image.shape
    offset = (np.arange(pixels, dtype=np.float32) / pixels - np.float32(0.5)) * np.float32(roi.size)  # (P,)
    cos, sin = np.float32(np.cos(roi.angle)), np.float32(np.sin(roi.angle))
    x = np.float32(roi.x) + cos * offset[None, :] - sin * offset[:, None]  # (P, P)
    y = np.float32(roi.y) + sin * offset[None, :] + cos * offset[:, None]
    inside_x, inside_y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = inside_x.astype(np.intp), inside_y.astype(np.intp)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    to_right, down = inside_x - left.astype(np.float32), inside_y - top.astype(np.float32)
    flat = image.reshape(-1, 3)
    top, below = top * width, below * width
    upper = _mix(_planes(flat, top + left), _planes(flat, top + right), to_right)
    lower = _mix(_planes(flat, below + left), _planes(flat, below + right), to_right)
    samples = _mix(upper, lower, down)
    if fill is not None:
        samples[:, (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)] = fill
    return samples


def _planes(flat: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Colours at (P, P) places of (H * W, 3), as (3, P, P): NumPy mixes whole planes ten times as fast as triples."""
    return flat.take(index, axis=0).transpose(2, 0, 1).astype(np.float32, order="C")


def _mix(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return first + (second - first) * weight
