"""The aligned face: 48x48 grey pixels, eyes level, framed as the faces of FER2013 are (arXiv:1307.0414)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from psamf_edge.face.mesh import Landmarks
from psamf_edge.face.sampling import LUMA, Roi, check_image, sample

CROP_PIXELS = 48  # FER2013's size

# Fractions of the crop's side, from medians over the first 300 training images of FER2013 (0.364, 0.260, 0.388). The
# distances are 5.5 % larger than those, because the larger of two estimates is taken: the median face keeps its size.
_EYE_DISTANCE = 0.384  # between the eyes' centres
_EYES_TO_NOSE_BASE = 0.274  # from their line down to the base of the nose, which the mouth does not move
_EYE_LINE = 0.388  # from the top edge

_RIGHT_EYE, _LEFT_EYE = (33, 133), (362, 263)  # corners of each eye
_NOSE_BASE = 2
# A face is sampled at most _STEP of its own pixels apart, with at most _MOST_SAMPLES^2 samples in an output pixel. In
# the mesh's patch it spans 113-143 pixels: four samples. Every half pixel instead changes 0.4 grey levels on average.
_STEP, _MOST_SAMPLES = 1.5, 4


def align(landmarks: Landmarks) -> np.ndarray:
    """The face turned and scaled to (48, 48) uint8 grey, out of the patch that the mesh saw: four times as large.

    The scale is the larger of what the eyes and the nose ask for: turning the head shortens the one, nodding the other.
    """
    patch = landmarks.patch
    side = patch.pixels.shape[1]
    framing = _framing(patch.roi.from_image(landmarks.points[:, :2]) * side)
    left, top, right, bottom = framing.bounds(side, side)
    part = patch.pixels[:, top:bottom, left:right]  # (3, h, w)
    grey = LUMA @ part.reshape(3, -1).astype(np.float32)  # (h * w,); before sampling: one plane to mix, not three
    return _shrink(grey.reshape(part.shape[1:]), replace(framing, x=framing.x - left, y=framing.y - top))


def align_box(image: np.ndarray) -> np.ndarray:
    """The middle square of an image that is a tight face crop itself, as (48, 48) uint8 grey; 48x48 stays as it is.

    Raises:
        InputError: the image is not (H, W, 3) uint8.
    """
    check_image(image)
    height, width, _ = image.shape
    return _shrink(image @ LUMA, Roi((width - 1) / 2, (height - 1) / 2, min(height, width)))


def _framing(points: np.ndarray) -> Roi:
    """The square that holds a face as FER2013 would. points: (468, 2)."""
    right_eye, left_eye = points[list(_RIGHT_EYE)].mean(axis=0), points[list(_LEFT_EYE)].mean(axis=0)
    eyes = (right_eye + left_eye) / 2
    across = left_eye - right_eye
    angle = math.atan2(across[1], across[0])
    axes = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # right, down
    upright = (points - eyes) @ axes.T  # (468, 2): eyes at the origin, level
    size = max(math.hypot(*across) / _EYE_DISTANCE, upright[_NOSE_BASE, 1] / _EYES_TO_NOSE_BASE, 1.0)
    middle = (upright[:, 0].min() + upright[:, 0].max()) / 2  # of the whole face: a turned head stays in the square
    x, y = eyes + np.array([middle, (0.5 - _EYE_LINE) * size]) @ axes
    return Roi(float(x), float(y), float(size), angle)


def _shrink(grey: np.ndarray, roi: Roi) -> np.ndarray:
    """Area average of the region of a grey image (H, W) float32, as (48, 48) uint8."""
    per_pixel = min(max(math.ceil(roi.size / CROP_PIXELS / _STEP), 1), _MOST_SAMPLES)
    fine = CROP_PIXELS * per_pixel
    x, y = roi.to_image(np.full(2, 0.5 + 0.5 / fine))  # `sample` starts at the corner; here pixels' centres are meant
    levels = np.rint(grey).astype(np.uint8)[..., None]  # (H, W, 1)
    samples = sample(levels, replace(roi, x=x, y=y), fine)[0].astype(np.uint16)  # (fine, fine)
    steps = range(per_pixel)
    totals = sum(
        samples[i::per_pixel, j::per_pixel] for i in steps for j in steps
    )  # (48, 48); np.sum takes 3 times that
    return np.rint(totals / np.float32(per_pixel**2)).astype(np.uint8)
