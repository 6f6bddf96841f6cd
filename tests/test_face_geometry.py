"""Measures of the face: free of pose, size and place; signs and sides as named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from psamf_edge.face.detector import FaceDetector
from psamf_edge.face.geometry import GEOMETRY_FEATURES, measure
from psamf_edge.face.mesh import FaceMesh, Landmarks
from psamf_edge.face.sampling import Patch, Roi
from psamf_edge.face.tracker import FaceTracker

WEIGHTS = Path(__file__).parents[1] / "compile" / "weights" / "default"
SHARED = Path(__file__).parents[1].parent / "shared"
NAMES = [feature.name for feature in GEOMETRY_FEATURES]
POSE = ["head_yaw", "head_pitch", "head_roll"]
SIZE = (512, 512)


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker(
        FaceDetector((WEIGHTS / "face_detector.onnx").read_bytes()), FaceMesh((WEIGHTS / "face_mesh.onnx").read_bytes())
    )


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    data = pytest.importorskip("skimage.data", reason="scikit-image (extra: dev) brings the photograph")
    return data.astronaut()  # (512, 512, 3)


@pytest.fixture(scope="module")
def face(tracker, photo) -> Landmarks:
    return tracker.observe(photo, 0).landmarks


UNSEEN = Patch(np.zeros((3, 192, 192), np.uint8), Roi(0, 0, 1))  # measures come from the points alone


def named(points: np.ndarray, size: tuple[int, int] = SIZE) -> dict[str, float]:
    values = measure(Landmarks(points.astype(np.float32), 0.75, UNSEEN), size)
    return dict(zip(NAMES, values.tolist(), strict=True))


def rotation(axis: int, angle: float) -> np.ndarray:
    """Right-handed turn about x, y or z; with y down and z away from the camera."""
    first, second = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    sign = -1 if axis != 1 else 1
    matrix[first, second], matrix[second, first] = sign * np.sin(angle), -sign * np.sin(angle)
    return matrix


def test_names_are_unique_and_the_last_says_whether_a_mesh_was_found():
    assert len(set(NAMES)) == len(NAMES)
    assert NAMES[-1] == "mesh_found"


def test_without_landmarks_all_is_zero():
    values = measure(None, SIZE)
    assert values.shape == (len(GEOMETRY_FEATURES),)
    assert values.dtype == np.float32
    assert not values.any()


def test_measures_do_not_depend_on_pose_place_or_size(face):
    points = face.points.astype(np.float64)
    turn = rotation(0, 0.3) @ rotation(1, -0.4) @ rotation(2, 0.5)
    before, after = named(points), named(points @ turn.T * 1.7 + [30, -200, 5])
    for name in NAMES:
        if name == "face_size":
            assert after[name] == pytest.approx(1.7 * before[name], rel=1e-4)
        elif name not in POSE:
            assert after[name] == pytest.approx(before[name], abs=1e-4), name  # float32 points near 300


@pytest.mark.parametrize(("name", "axis", "sign"), [("head_yaw", 1, -1), ("head_pitch", 0, 1), ("head_roll", 2, 1)])
def test_each_angle_follows_its_own_turn(face, name, axis, sign):
    """From a pose made frontal, so that the angles do not mix."""
    points = face.points.astype(np.float64)
    for _ in range(3):  # undo yaw, pitch, roll in turn until none is left
        pose = named(points)
        undo = rotation(2, -pose["head_roll"]) @ rotation(0, -pose["head_pitch"]) @ rotation(1, pose["head_yaw"])
        points = points @ undo.T
    frontal = named(points)
    assert max(abs(frontal[pose]) for pose in POSE) < 1e-3
    turned = named(points @ rotation(axis, sign * 0.25).T)
    for pose in POSE:
        assert turned[pose] == pytest.approx(0.25 if pose == name else 0, abs=2e-3), pose


def test_mirrored_face_swaps_its_sides(tracker, photo, face):
    """The mirrored photograph through the mesh again: what was right is left now."""
    tracker.start()
    mirrored = named(tracker.observe(photo[:, ::-1], 0).landmarks.points)
    plain = named(face.points)
    for name in ("eye_open", "brow_inner", "brow_mid", "brow_outer", "mouth_corner", "cheek", "nose_wrinkle"):
        assert mirrored[f"left_{name}"] == pytest.approx(plain[f"right_{name}"], abs=0.06), name  # the mesh's own error
    assert mirrored["mouth_asymmetry"] == pytest.approx(-plain["mouth_asymmetry"], abs=0.03)
    assert mirrored["head_yaw"] == pytest.approx(-plain["head_yaw"], abs=0.05)
    assert mirrored["head_roll"] == pytest.approx(-plain["head_roll"], abs=0.03)


@pytest.mark.parametrize(
    ("points", "shift", "rising", "still"),
    [
        ([61], [0, -5, 0], "right_mouth_corner", "left_mouth_corner"),
        ([291], [0, -5, 0], "mouth_asymmetry", "right_mouth_corner"),
        ([336, 334, 300], [0, -5, 0], "left_brow_mid", "right_brow_mid"),
        ([14, 17, 152], [0, 8, 0], "jaw_drop", "lip_to_nose"),
        ([14, 17, 152], [0, 8, 0], "mouth_open_inner", "upper_lip"),
        ([159, 158, 160], [0, -3, 0], "right_eye_open", "left_eye_open"),
        ([285], [5, 0, 0], "brow_distance", "mouth_width"),
    ],
)
def test_measure_rises_with_its_movement_and_another_stays(face, points, shift, rising, still):
    moved = face.points.copy()
    moved[points] += np.array(shift, np.float32)
    before, after = named(face.points), named(moved)
    assert after[rising] > before[rising] + 0.02
    assert after[still] == pytest.approx(before[still], abs=1e-6)


def test_mesh_folded_to_a_point_stays_finite():
    for place in (0.0, 250.0):
        assert np.isfinite(measure(Landmarks(np.full((468, 3), place, np.float32), 0.6, UNSEEN), (1, 1))).all()


def test_happy_faces_smile_and_surprised_ones_raise_their_brows(tracker):
    """FER2013's labels, which people gave: group means of the measure that defines the expression."""
    file = SHARED / "data" / "faces" / "fer2013_train.npz"
    if not file.exists():
        pytest.skip(f"{file} is not here")
    data = np.load(file)
    classes, rows = data["classes"].tolist(), {}
    images, labels = data["images"], data["labels"]
    for name in ("happy", "neutral", "surprise"):
        measured = []
        for image in images[labels == classes.index(name)][:25]:
            tracker.start()
            observation = tracker.observe(np.repeat(image[..., None], 3, axis=2), 0)
            if observation is not None and observation.landmarks is not None:
                measured.append(measure(observation.landmarks, image.shape))
        rows[name] = dict(zip(NAMES, np.mean(measured, axis=0), strict=True))
    assert rows["happy"]["right_mouth_corner"] > rows["neutral"]["right_mouth_corner"] + 0.04
    assert rows["happy"]["mouth_width"] > rows["neutral"]["mouth_width"] + 0.1
    assert rows["surprise"]["left_brow_mid"] > rows["neutral"]["left_brow_mid"] + 0.02
    assert rows["surprise"]["right_eye_open"] > rows["neutral"]["right_eye_open"] + 0.02
