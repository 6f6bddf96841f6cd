"""What a mesh says about an expression: named distances and angles of the face, free of head pose and size."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from psamf_edge.face.mesh import LEFT_EYE_CORNER, RIGHT_EYE_CORNER, Landmarks
from psamf_edge.features import Feature

# Mesh points, numbered as in MediaPipe's canonical face model. Right and left are the person's own.
_FOREHEAD, _NOSE_BASE, _CHIN = 10, 2, 152
_RIGHT_SIDE, _LEFT_SIDE = 234, 454  # in front of the ears
_RIGHT_INNER_CORNER, _LEFT_INNER_CORNER = 133, 362
_RIGHT_UPPER_LID, _RIGHT_LOWER_LID = (160, 159, 158), (144, 145, 153)
_LEFT_UPPER_LID, _LEFT_LOWER_LID = (387, 386, 385), (373, 374, 380)
_RIGHT_BROW, _LEFT_BROW = {"inner": 107, "mid": 105, "outer": 70}, {"inner": 336, "mid": 334, "outer": 300}
_RIGHT_BROW_HEAD, _LEFT_BROW_HEAD = 55, 285
_RIGHT_MOUTH_CORNER, _LEFT_MOUTH_CORNER = 61, 291
_UPPER_LIP_TOP, _UPPER_LIP_BOTTOM, _LOWER_LIP_TOP, _LOWER_LIP_BOTTOM = 0, 13, 14, 17
_RIGHT_NOSTRIL, _LEFT_NOSTRIL = 48, 278
_RIGHT_CHEEK, _LEFT_CHEEK = 50, 280

_SMALLEST_EYE_DISTANCE = 1e-3  # pixels; a mesh folded to a point must not divide by zero

# Points of a face in its own frame: 468 of (right-to-left, down, away from the camera), in eye distances. Lists, as
# Python's own arithmetic is faster than NumPy's on one point.
_Face = list[list[float]]


def _eye_open(upper: tuple[int, ...], lower: tuple[int, ...], outer: int, inner: int) -> Callable[[_Face], float]:
    def measure_one(face: _Face) -> float:
        gaps = [math.dist(face[high], face[low]) for high, low in zip(upper, lower, strict=True)]
        return sum(gaps) / len(gaps) / max(math.dist(face[outer], face[inner]), _SMALLEST_EYE_DISTANCE)

    return measure_one


def _below(upper: int, lower: int) -> Callable[[_Face], float]:
    """How far down `lower` lies from `upper`."""
    return lambda face: face[lower][1] - face[upper][1]


def _apart(first: int, second: int) -> Callable[[_Face], float]:
    return lambda face: math.dist(face[first], face[second])


def _brow_height(brow: int, outer: int, inner: int) -> Callable[[_Face], float]:
    """Above the middle of the eye's corners, which the lids do not move."""
    return lambda face: (face[outer][1] + face[inner][1]) / 2 - face[brow][1]


def _corner_height(corner: int) -> Callable[[_Face], float]:
    """Above the middle of the lips: positive in a smile."""
    return lambda face: (face[_UPPER_LIP_BOTTOM][1] + face[_LOWER_LIP_TOP][1]) / 2 - face[corner][1]


def _corner_asymmetry(face: _Face) -> float:
    return face[_RIGHT_MOUTH_CORNER][1] - face[_LEFT_MOUTH_CORNER][1]


def _pucker(face: _Face) -> float:
    height = math.dist(face[_UPPER_LIP_TOP], face[_LOWER_LIP_BOTTOM])
    width = math.dist(face[_RIGHT_MOUTH_CORNER], face[_LEFT_MOUTH_CORNER])
    return height / max(width, _SMALLEST_EYE_DISTANCE)


_RIGHT_CORNERS = (RIGHT_EYE_CORNER, _RIGHT_INNER_CORNER)
_LEFT_CORNERS = (LEFT_EYE_CORNER, _LEFT_INNER_CORNER)

# One row a measure, in the order of the vector: name, description, how. The unit is the eye distance unless stated.
_MEASURES: tuple[tuple[str, str, Callable[[_Face], float]], ...] = (
    ("right_eye_open", "lid gap over eye width", _eye_open(_RIGHT_UPPER_LID, _RIGHT_LOWER_LID, *_RIGHT_CORNERS)),
    ("left_eye_open", "lid gap over eye width", _eye_open(_LEFT_UPPER_LID, _LEFT_LOWER_LID, *_LEFT_CORNERS)),
    *(
        (f"right_brow_{part}", "height of the brow over the eye's corners", _brow_height(point, *_RIGHT_CORNERS))
        for part, point in _RIGHT_BROW.items()
    ),
    *(
        (f"left_brow_{part}", "height of the brow over the eye's corners", _brow_height(point, *_LEFT_CORNERS))
        for part, point in _LEFT_BROW.items()
    ),
    ("brow_distance", "between the inner ends of the brows", _apart(_RIGHT_BROW_HEAD, _LEFT_BROW_HEAD)),
    ("mouth_width", "between the corners", _apart(_RIGHT_MOUTH_CORNER, _LEFT_MOUTH_CORNER)),
    ("mouth_open_inner", "between the lips' inner edges", _apart(_UPPER_LIP_BOTTOM, _LOWER_LIP_TOP)),
    ("mouth_open_outer", "between the lips' outer edges", _apart(_UPPER_LIP_TOP, _LOWER_LIP_BOTTOM)),
    ("right_mouth_corner", "height over the lips' middle", _corner_height(_RIGHT_MOUTH_CORNER)),
    ("left_mouth_corner", "height over the lips' middle", _corner_height(_LEFT_MOUTH_CORNER)),
    ("mouth_asymmetry", "left corner's height minus the right one's", _corner_asymmetry),
    ("lip_pucker", "height of the lips, opening included, over their width", _pucker),
    ("upper_lip", "thickness", _apart(_UPPER_LIP_TOP, _UPPER_LIP_BOTTOM)),
    ("lower_lip", "thickness", _apart(_LOWER_LIP_TOP, _LOWER_LIP_BOTTOM)),
    ("lip_to_nose", "from the base of the nose down to the upper lip", _below(_NOSE_BASE, _UPPER_LIP_TOP)),
    (
        "right_nose_wrinkle",
        "from the eye's inner corner to the nostril",
        _below(_RIGHT_INNER_CORNER, _RIGHT_NOSTRIL),
    ),
    ("left_nose_wrinkle", "from the eye's inner corner to the nostril", _below(_LEFT_INNER_CORNER, _LEFT_NOSTRIL)),
    ("right_cheek", "from the lower lid down to the cheek", _below(_RIGHT_LOWER_LID[1], _RIGHT_CHEEK)),
    ("left_cheek", "from the lower lid down to the cheek", _below(_LEFT_LOWER_LID[1], _LEFT_CHEEK)),
    ("jaw_drop", "from the base of the nose down to the chin", _below(_NOSE_BASE, _CHIN)),
)

GEOMETRY_FEATURES: tuple[Feature, ...] = (
    *(Feature(name, "1", description) for name, description, _ in _MEASURES),
    Feature("head_yaw", "rad", "turn to the side; positive towards the image's right edge"),
    Feature("head_pitch", "rad", "nod; positive downwards"),
    Feature("head_roll", "rad", "tilt; positive clockwise on the screen"),
    Feature("face_size", "1", "eye distance over the image's longer side"),
    Feature("mesh_score", "1", "the mesh's probability that it lies on a face"),
    Feature("mesh_found", "1", "1 where a mesh was found, 0 where all the measures above are 0 for want of one"),
)


def measure(landmarks: Landmarks | None, image_size: tuple[int, int]) -> np.ndarray:
    """The measures of one frame, (len(GEOMETRY_FEATURES),) float32; all zeros where there is no mesh.

    Args:
        landmarks: of the face, or None.
        image_size: (height, width) in pixels of the frame they were found in.
    """
    if landmarks is None:
        return np.zeros(len(GEOMETRY_FEATURES), np.float32)
    points = landmarks.points.astype(np.float64)
    axes = _head_axes(points)  # (3, 3)
    right_eye, left_eye = points[list(_RIGHT_CORNERS)].mean(axis=0), points[list(_LEFT_CORNERS)].mean(axis=0)
    eye_distance = max(float(np.linalg.norm(left_eye - right_eye)), _SMALLEST_EYE_DISTANCE)
    face = ((points - (right_eye + left_eye) / 2) @ axes.T / eye_distance).tolist()  # (468, 3)
    across, _, away = axes
    values = [how(face) for _, _, how in _MEASURES]
    values += [np.arctan2(-away[0], away[2]), np.arcsin(np.clip(-away[1], -1, 1)), np.arctan2(across[1], across[0])]
    values += [eye_distance / max(image_size), landmarks.score, 1.0]
    return np.array(values, np.float32)


def _head_axes(points: np.ndarray) -> np.ndarray:
    """Unit vectors of the head: across (to its left), down, away from the camera; (3, 3).

    They rest on points that no expression moves: outer eye corners, sides of the face, forehead, base of the nose.
    """
    across = points[LEFT_EYE_CORNER] - points[RIGHT_EYE_CORNER] + points[_LEFT_SIDE] - points[_RIGHT_SIDE]
    away = _cross(across, points[_NOSE_BASE] - points[_FOREHEAD])
    across, away = _unit(across, 0), _unit(away, 2)
    return np.stack([across, _cross(away, across), away])


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cross product of two vectors (3,); NumPy's own is made for many and takes ten times as long."""
    (a, b, c), (x, y, z) = first.tolist(), second.tolist()
    return np.array([b * z - c * y, c * x - a * z, a * y - b * x])


def _unit(vector: np.ndarray, axis: int) -> np.ndarray:
    """The vector at length 1; a vector without direction becomes the image's own axis."""
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else np.eye(3)[axis]
