"""Finds faces in a frame: MediaPipe's short-range detector (BlazeFace, arXiv:1907.05047), an SSD on 128x128 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.backends.sessions import open_session
from psamf_edge.face.sampling import Roi, check_image, sample

INPUT_PIXELS = 128
KEYPOINTS = ("right eye", "left eye", "nose tip", "mouth", "right ear", "left ear")  # right: the person's own
SCORE_THRESHOLD = 0.5  # MediaPipe's setting for this model
OVERLAP_THRESHOLD = 0.3  # intersection over union from which two boxes are one face; MediaPipe's setting
_LOGIT_LIMIT = 80.0  # exp(88) overflows float32, and from here the sigmoid is 0 or 1 anyway
_GRIDS = ((16, 2), (8, 6))  # cells along a side, anchors in each cell: 512 + 384 = 896
_LETTERBOX_FILL = 0  # black, as MediaPipe pads
_MARGIN_FILL = 128  # mid-grey: no edge as hard as black against a face that fills the image


@dataclass(frozen=True)
class Detection:
    """One face. box: (left, top, right, bottom); keypoints: (6, 2) in the order of KEYPOINTS; all in image pixels."""

    box: np.ndarray
    keypoints: np.ndarray
    score: float

    @property
    def area(self) -> float:
        """In square pixels."""
        left, top, right, bottom = self.box
        return float((right - left) * (bottom - top))


class FaceDetector:
    """A loaded detector. One object serves one thread at a time.

    Raises:
        IntegrityError: the bytes are not a model.
    """

    def __init__(self, onnx_bytes: bytes) -> None:
        self._session = open_session(onnx_bytes, "face_detector")
        self._anchors = _anchors()  # (896, 2)

    def detect(self, image: np.ndarray, margin: float = 1.0) -> list[Detection]:
        """Faces in an image, largest first.

        Args:
            image: (H, W, 3) uint8 RGB.
            margin: side of the square shown to the detector, in units of the image's longer side. More than 1 puts the
                image in a grey border, which finds faces that fill it: the detector knows no face larger than its view.

        Raises:
            InputError: the image is not (H, W, 3) uint8.
        """
        check_image(image)
        height, width, _ = image.shape
        view = Roi(width / 2, height / 2, margin * max(height, width))
        pixels = sample(image, view, INPUT_PIXELS, _LETTERBOX_FILL if margin == 1 else _MARGIN_FILL)
        network_input = pixels[None].astype(np.float32) / 127.5 - 1  # (1, 3, 128, 128) in [-1, 1]
        regressors, logits = self._session.run(["regressors", "classificators"], {"input": network_input})
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0], -_LOGIT_LIMIT, _LOGIT_LIMIT)))  # (896,)
        kept = scores >= SCORE_THRESHOLD
        points = _decode(regressors[0, kept], self._anchors[kept])  # (K, 8, 2)
        faces = [_detection(merged, score, view) for merged, score in _merge(points, scores[kept])]
        return sorted(faces, key=lambda face: face.area, reverse=True)


def _anchors() -> np.ndarray:
    """Centres of the 896 anchors, (896, 2) in [0, 1]; all have the same size, so that is left to the regressors."""
    centres = []
    for cells, per_cell in _GRIDS:
        axis = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)  # (cells^2, 2): x fastest
        centres.append(np.repeat(grid, per_cell, axis=0))
    return np.concatenate(centres).astype(np.float32)


def _decode(regressors: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Regressors (K, 16), in pixels from the anchors, to points (K, 8, 2) in [0, 1]: two box corners, six keypoints."""
    raw = regressors.reshape(-1, 8, 2) / INPUT_PIXELS
    centre, half = raw[:, 0] + anchors, raw[:, 1] / 2
    return np.concatenate([np.stack([centre - half, centre + half], axis=1), raw[:, 2:] + anchors[:, None]], axis=1)


def _merge(points: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Weighted non-maximum suppression: overlapping boxes become their mean, weighted by score, with the best score."""
    faces = []
    remaining = np.argsort(-scores, kind="stable")
    while remaining.size:
        overlap = _overlap(points[remaining[0], :2], points[remaining, :2])
        same = overlap > OVERLAP_THRESHOLD
        same[0] = True  # a box without area overlaps nothing, not even itself
        group = remaining[same]
        faces.append((np.average(points[group], axis=0, weights=scores[group]), float(scores[remaining[0]])))
        remaining = remaining[~same]
    return faces


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box (2, 2) with boxes (K, 2, 2), each as (low corner, high corner); (K,)."""
    low, high = np.maximum(box[0], boxes[:, 0]), np.minimum(box[1], boxes[:, 1])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    union = np.prod(box[1] - box[0]) + np.prod(boxes[:, 1] - boxes[:, 0], axis=1) - shared
    return shared / np.maximum(union, np.finfo(np.float32).tiny)


def _detection(points: np.ndarray, score: float, view: Roi) -> Detection:
    pixels = view.to_image(points)
    return Detection(box=pixels[:2].reshape(4), keypoints=pixels[2:], score=score)
