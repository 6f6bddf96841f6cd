"""Follows one face through a clip: each frame's mesh says where to look in the next.

Detection would double the cost of a frame. It runs where there is no face to follow, and every two seconds to see
whether a larger one has come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.face.crop import align, align_box
from psamf_edge.face.detector import Detection, FaceDetector
from psamf_edge.face.mesh import ROI_SCALE, FaceMesh, Landmarks, detection_roi
from psamf_edge.face.sampling import Roi, check_image

RETRY_MARGIN = 1.75  # finds 296 of 300 FER2013 faces, which fill their image, where the plain view finds 272
RETRY_EVERY_MS = 1000  # of a clip without a face: a second look in each frame would double its cost
CHECK_EVERY_MS = 2000  # of a clip with a face: for a larger one, which a passer-by's is not twice running
CLEARLY_LARGER = 1.5  # times the area: two people at a table, leaning in and out, must not be taken in turns
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
    """Tracks the largest face of a clip: the largest when it was found, or one that was clearly larger in two checks.

    `faces_seen_max`: most faces that any detection found since `start`.
    """

    def __init__(self, detector: FaceDetector, mesh: FaceMesh) -> None:
        self._detector = detector
        self._mesh = mesh
        self.start()

    def start(self) -> None:
        """Forget the last clip."""
        self.faces_seen_max = 0
        self._roi: Roi | None = None
        self._retry_from_ms: int | None = None  # None: at once
        self._check_from_ms = 0
        self._rivalled = False  # whether the last check saw a clearly larger face, and nothing came of it yet

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
        elif time_ms >= self._check_from_ms:
            landmarks = self._larger_face(image, time_ms, landmarks.roi()) or landmarks
        self._roi = landmarks.roi() if landmarks is not None else None
        if landmarks is not None:
            return Observation(time_ms, image.shape[:2], landmarks, None)
        if _may_be_face_crop(image):
            return Observation(time_ms, image.shape[:2], None, image.copy())  # the caller may reuse its own
        return None

    def _find(self, image: np.ndarray, time_ms: int) -> Landmarks | None:
        """Landmarks of the largest face that both detector and mesh agree on."""
        self._rivalled = False
        landmarks = self._first_face(image, self._detect(image, time_ms))
        if landmarks is None and (self._retry_from_ms is None or time_ms >= self._retry_from_ms):
            self._retry_from_ms = time_ms + RETRY_EVERY_MS
            landmarks = self._first_face(image, self._detect(image, time_ms, RETRY_MARGIN))
        return landmarks

    def _larger_face(self, image: np.ndarray, time_ms: int, followed: Roi) -> Landmarks | None:
        """Landmarks of a face that is clearly larger than the one that is followed, if the last check saw one too."""
        faces = self._detect(image, time_ms)
        areas = [face.area for face in faces if _is_same(face, followed)]
        area = max(areas, default=(followed.size / ROI_SCALE) ** 2)  # turned away, it may not be detected
        larger = [face for face in faces if face.area > CLEARLY_LARGER * area]
        rivalled, self._rivalled = self._rivalled, bool(larger) and not self._rivalled
        return self._first_face(image, larger) if rivalled else None

    def _detect(self, image: np.ndarray, time_ms: int, margin: float = 1.0) -> list[Detection]:
        detections = self._detector.detect(image, margin)
        self.faces_seen_max = max(self.faces_seen_max, len(detections))
        self._check_from_ms = time_ms + CHECK_EVERY_MS
        return detections

    def _first_face(self, image: np.ndarray, detections: list[Detection]) -> Landmarks | None:
        for detection in detections:
            landmarks = self._mesh.landmarks(image, detection_roi(detection))
            if landmarks is not None:
                # Once more from its own region, as every tracked frame is measured: a still image must not differ.
                return self._mesh.landmarks(image, landmarks.roi()) or landmarks
        return None


def _is_same(face: Detection, followed: Roi) -> bool:
    """Whether the middle of a detection lies on the face that is followed, apart from its region's margin."""
    middle = followed.from_image((face.box[:2] + face.box[2:]) / 2)  # (2,)
    return bool(np.abs(middle - 0.5).max() < 0.5 / ROI_SCALE)


def _may_be_face_crop(image: np.ndarray) -> bool:
    shorter, longer = sorted(image.shape[:2])
    right_shape = shorter >= _CROP_SIDES[0] and longer <= min(_CROP_SIDES[1], _CROP_ASPECT * shorter)
    return bool(right_shape and image.std() > _CROP_CONTRAST)
