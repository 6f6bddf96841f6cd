"""Follows one face through a clip: detects it once, then lets each frame's mesh say where to look in the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.face.crop import align, align_box
from psamf_edge.face.detector import Detection, FaceDetector
from psamf_edge.face.mesh import FaceMesh, Landmarks, detection_roi
from psamf_edge.face.sampling import Roi, check_image

RETRY_MARGIN = 1.75  # finds 296 of 300 FER2013 faces, which fill their image, where the plain view finds 272
RETRY_EVERY_MS = 1000  # of a clip without a face: a second look in each frame would double its cost
_CROP_SIDES = (16, 128)  # pixels: a smaller image shows no expression, in a larger one the detector sees any face
_CROP_ASPECT = 1.25  # longer side over shorter: a face crop is near square
_CROP_CONTRAST = 10.0  # standard deviation in grey levels: all faces of FER2013 have more, its 11 blank images less


@dataclass(frozen=True)
class Observation:
    """The face in one frame, whose size is image_size, (height, width) in pixels.

    Where no landmarks are found in an image that is small, square and not blank, the image, `box` (H, W, 3), is taken
    to be a face crop itself. Otherwise box is None.
    """

    time_ms: int
    image_size: tuple[int, int]
    landmarks: Landmarks | None
    box: np.ndarray | None

    @property
    def degraded(self) -> bool:
        """Whether no mesh was found."""
        return self.landmarks is None

    @property
    def crop(self) -> np.ndarray:
        """The aligned face, (48, 48) uint8 grey. Computed each time: whoever asks chooses the thread."""
        return align_box(self.box) if self.landmarks is None else align(self.landmarks)


class FaceTracker:
    """Tracks the largest face of a clip. `faces_seen_max`: most faces that any detection found since `start`."""

    def __init__(self, detector: FaceDetector, mesh: FaceMesh) -> None:
        self._detector = detector
        self._mesh = mesh
        self.start()

    def start(self) -> None:
        """Forget the last clip."""
        self.faces_seen_max = 0
        self._roi: Roi | None = None
        self._retry_from_ms: int | None = None  # None: at once

    def observe(self, image: np.ndarray, time_ms: int) -> Observation | None:
        """The face in the next frame, or None.

        Args:
            image: (H, W, 3) uint8 RGB.
            time_ms: its time in the clip; frames come in order.

        Raises:
            InputError: the image is not (H, W, 3) uint8.
        """
        check_image(image)
        landmarks = self._mesh.landmarks(image, self._roi) if self._roi is not None else None
        if landmarks is None:
            landmarks = self._find(image, time_ms)
        self._roi = landmarks.roi() if landmarks is not None else None
        if landmarks is not None:
            return Observation(time_ms, image.shape[:2], landmarks, None)
        if _may_be_face_crop(image):
            return Observation(time_ms, image.shape[:2], None, image.copy())  # the caller may reuse its own
        return None

    def _find(self, image: np.ndarray, time_ms: int) -> Landmarks | None:
        """Landmarks of the largest face that both detector and mesh agree on."""
        landmarks = self._first_face(image, self._detector.detect(image))
        if landmarks is None and (self._retry_from_ms is None or time_ms >= self._retry_from_ms):
            self._retry_from_ms = time_ms + RETRY_EVERY_MS
            landmarks = self._first_face(image, self._detector.detect(image, RETRY_MARGIN))
        return landmarks

    def _first_face(self, image: np.ndarray, detections: list[Detection]) -> Landmarks | None:
        self.faces_seen_max = max(self.faces_seen_max, len(detections))
        for detection in detections:
            landmarks = self._mesh.landmarks(image, detection_roi(detection))
            if landmarks is not None:
                # Once more from its own region, as every tracked frame is measured: a still image must not differ.
                return self._mesh.landmarks(image, landmarks.roi()) or landmarks
        return None


def _may_be_face_crop(image: np.ndarray) -> bool:
    shorter, longer = sorted(image.shape[:2])
    right_shape = shorter >= _CROP_SIDES[0] and longer <= min(_CROP_SIDES[1], _CROP_ASPECT * shorter)
    return bool(right_shape and image.std() > _CROP_CONTRAST)
