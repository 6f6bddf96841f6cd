"""468 points of a face: MediaPipe's face mesh (arXiv:1907.06724) on a square region of 192x192 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.backends.sessions import open_session
from psamf_edge.face.detector import Detection
from psamf_edge.face.sampling import Patch, Roi, check_image, sample

INPUT_PIXELS = 192
POINTS = 468
PRESENCE_THRESHOLD = 0.5  # MediaPipe's setting: below it the region holds no face
ROI_SCALE = 1.5  # side of the region over the longer side of the box; the scale the mesh was trained with
RIGHT_EYE_CORNER, LEFT_EYE_CORNER = 33, 263  # outer corners; their line gives the roll


@dataclass(frozen=True)
class Landmarks:
    """points: (468, 3) float32, x and y in image pixels, z (depth, towards the camera negative) on the same scale;
    score: probability that the region holds a face; patch: the region as the mesh saw it, 192x192 pixels."""

    points: np.ndarray
    score: float
    patch: Patch

    def roi(self) -> Roi:
        """The region in which to look for this face in the next frame."""
        flat = self.points[:, :2]
        return _level_roi(flat.min(axis=0), flat.max(axis=0), flat[RIGHT_EYE_CORNER], flat[LEFT_EYE_CORNER])


class FaceMesh:
    """A loaded mesh model. One object serves one thread at a time.

    Raises:
        IntegrityError: the bytes are not a model.
    """

    def __init__(self, onnx_bytes: bytes) -> None:
        self._session = open_session(onnx_bytes, "face_mesh")
        self._input = self._session.get_inputs()[0].name
        by_size = sorted(self._session.get_outputs(), key=lambda output: output.shape[-1])
        self._outputs = [output.name for output in by_size]  # the presence logit, the points

    def landmarks(self, image: np.ndarray, roi: Roi) -> Landmarks | None:
        """The face inside a region, or None where there is none.

        Args:
            image: (H, W, 3) uint8 RGB.
            roi: from `detection_roi` or `Landmarks.roi`.

        Raises:
            InputError: the image is not (H, W, 3) uint8.
        """
        check_image(image)
        patch = Patch(sample(image, roi, INPUT_PIXELS), roi)
        network_input = patch.pixels[None].astype(np.float32)  # (1, 3, 192, 192)
        network_input *= np.float32(1 / 255)  # in place: to [0, 1]
        logit, raw = self._session.run(self._outputs, {self._input: network_input})
        score = float(1 / (1 + np.exp(-np.float64(logit.item()))))
        if score < PRESENCE_THRESHOLD:
            return None
        square = raw.reshape(POINTS, 3) / INPUT_PIXELS
        flat = roi.to_image(square[:, :2])
        return Landmarks(np.column_stack([flat, square[:, 2] * roi.size]).astype(np.float32), score, patch)


def detection_roi(detection: Detection) -> Roi:
    """The region that the mesh wants around a detected face."""
    return _level_roi(detection.box[:2], detection.box[2:], detection.keypoints[0], detection.keypoints[1])


def _level_roi(low: np.ndarray, high: np.ndarray, right_eye: np.ndarray, left_eye: np.ndarray) -> Roi:
    """A square around a box, turned so that the eyes are level."""
    x, y = (low + high) / 2
    angle = np.arctan2(left_eye[1] - right_eye[1], left_eye[0] - right_eye[0])
    return Roi(float(x), float(y), float(max(high - low)) * ROI_SCALE, float(angle))
