"""Which face is followed when there are several, and which picture stands for a time that has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from psamf_edge.face.detector import Detection, FaceDetector
from psamf_edge.face.expression import EXPRESSION_FEATURES
from psamf_edge.face.features import FacePath
from psamf_edge.face.mesh import FaceMesh
from psamf_edge.face.tracker import CHECK_EVERY_MS, FaceTracker

WEIGHTS = Path(__file__).parents[1] / "compile" / "weights" / "default"
DETECTOR, MESH = (WEIGHTS / "face_detector.onnx").read_bytes(), (WEIGHTS / "face_mesh.onnx").read_bytes()
ROOM = np.full((240, 400, 3), 90, np.uint8)
MIDDLE = 160  # x between the face on the left and the one on the right


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """(240, 240, 3): the astronaut (NASA, public domain)."""
    data = pytest.importorskip("skimage.data", reason="scikit-image (extra: dev) brings the photograph")
    return data.astronaut()[20:260, 100:340]


class Counting:
    """A detector that remembers when it was asked."""

    def __init__(self) -> None:
        self.inner, self.asked = FaceDetector(DETECTOR), 0

    def detect(self, image: np.ndarray, margin: float = 1.0) -> list[Detection]:
        self.asked += 1
        return self.inner.detect(image, margin)


@pytest.fixture(scope="module")
def detector() -> Counting:
    return Counting()


@pytest.fixture
def tracker(detector) -> FaceTracker:
    detector.asked = 0
    return FaceTracker(detector, FaceMesh(MESH))


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """To (side, side, 3), by the nearest pixels."""
    index = np.arange(side) * len(image) // side
    return image[index][:, index]


def room(face: np.ndarray, left: int = 0, right: int = 0) -> np.ndarray:
    """A room with a face on each side, of that many pixels; 0: nobody."""
    image = ROOM.copy()
    if left:
        image[:left, :left] = shrunk(face, left)
    if right:
        image[:right, -right:] = shrunk(face, right)
    return image


def sides(tracker: FaceTracker, pictures: list[np.ndarray]) -> str:
    """On which side the face is that is followed, L or R, for each of the pictures, half a second apart."""
    followed = [tracker.observe(image, 500 * i).landmarks.roi().x for i, image in enumerate(pictures)]
    return "".join("L" if x < MIDDLE else "R" for x in followed)


def test_a_clearly_larger_face_that_stays_is_followed(tracker, face):
    alone, joined = room(face, left=150), room(face, left=150, right=230)
    assert sides(tracker, [alone] * 2 + [joined] * 9) == "L" * 8 + "R" * 3  # from the second check, at 4 s
    assert tracker.faces_seen_max == 2


def test_a_passer_by_is_not_followed(tracker, face):
    alone, joined = room(face, left=150), room(face, left=150, right=230)
    pictures = [alone] * 4 + [joined] + [alone] * 7 + [joined] + [alone] * 3  # at 2 s and 6 s, but not at 4 s
    assert sides(tracker, pictures) == "L" * 16
    assert tracker.faces_seen_max == 2


def test_a_face_that_is_hardly_larger_is_not_followed(tracker, face):
    alone, joined = room(face, left=180), room(face, left=180, right=205)  # 1.3 times the area
    assert sides(tracker, [alone] + [joined] * 13) == "L" * 14
    assert tracker.faces_seen_max == 2


def test_a_face_that_is_followed_costs_a_detection_every_two_seconds(tracker, detector, face):
    pictures = 45
    for i in range(pictures):
        tracker.observe(room(face, left=220), 100 * i)
    assert detector.asked == 1 + 100 * (pictures - 1) // CHECK_EVERY_MS


def test_a_new_clip_forgets_the_rival_of_the_last(tracker, face):
    alone, joined = room(face, left=150), room(face, left=150, right=230)
    assert sides(tracker, [alone] * 2 + [joined] * 3) == "LLLLL"  # the first check
    tracker.start()
    assert sides(tracker, [alone] * 2 + [joined] * 6) == "L" * 8


# Pictures far apart


@pytest.fixture(scope="module")
def path() -> FacePath:
    return FacePath(DETECTOR, MESH, lambda crops: np.ones((len(crops), len(EXPRESSION_FEATURES)), np.float32))


def test_the_picture_on_the_screen_stands_for_a_time_without_one(path, face):
    path.start()
    for time_ms in (0, 4000, 8000):
        path.observe(face, time_ms)
    for start_ms, end_ms, shown in [(300, 2000, 0), (2100, 3900, 0), (4400, 6300, 4000), (7900, 8500, 8000)]:
        seen = path.features(start_ms, end_ms)
        assert (seen.times_ms.tolist(), seen.frames_seen, seen.frames_with_face) == ([shown], 1, 1)
    np.testing.assert_array_equal(path.features(4400, 6300).values, path.features(4000, 4001).values)


def test_a_picture_does_not_stand_for_minutes(path, face):
    """As where the pictures end and the sound goes on."""
    path.start()
    path.observe(face, 1000)
    assert path.features(5000, 6000).frames_with_face == 1
    assert path.features(5001, 6000).frames_with_face == 0


def test_a_picture_without_a_face_stands_too(path, face):
    path.start()
    path.observe(face, 0)
    path.observe(ROOM, 1000)
    seen = path.features(1500, 3000)
    assert (seen.frames_seen, seen.frames_with_face) == (1, 0)
    assert path.features(0, 3000).frames_seen == 2
    assert path.features(-500, 0).frames_seen == 0  # nothing came before
