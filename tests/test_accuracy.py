"""What benchmarks.accuracy makes of results: a face that is not found is no success, and pictures are framed."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from benchmarks.accuracy import evaluate
from benchmarks.validation_sets import FACE_SIDE, FRAME, GREY, ValidationSet, framed


def faces(scores: list[float | None], emotions: list[str]) -> ValidationSet:
    """A set whose analyzer says `scores`; None: it finds no face."""
    labels = np.array([{"happy": 1.8, "sad": -1.6, "neutral": 0.0}[emotion] for emotion in emotions])
    said = [None if score is None else SimpleNamespace(score=score) for score in scores]

    class Answered(ValidationSet):
        def results(self, analyzer):
            return iter(said)

    return Answered("face made", "face", [], labels, np.array(emotions))


def test_a_face_that_is_not_found_counts_as_wrong():
    emotions = ["happy", "happy", "sad", "sad", "neutral"]
    assert evaluate(None, faces([1.0, 0.5, -1.0, -0.1, 0.3], emotions))["sign_accuracy"] == 1.0
    missed = evaluate(None, faces([None, 0.5, None, -0.1, None], emotions))
    assert missed == {"n": 5, "found": 0.4, "sign_accuracy": 0.5}


def test_a_picture_is_enlarged_into_the_middle_of_a_frame():
    picture = np.zeros((48, 48), np.uint8)
    picture[24:] = 200  # the lower half
    frame = framed(picture)
    assert frame.shape == FRAME
    top, left = (FRAME[0] - FACE_SIDE) // 2, (FRAME[1] - FACE_SIDE) // 2
    face = frame[top : top + FACE_SIDE, left : left + FACE_SIDE]
    assert (face[: FACE_SIDE // 3] == 0).all()
    assert (face[-FACE_SIDE // 3 :] == 200).all()
    frame[top : top + FACE_SIDE, left : left + FACE_SIDE] = GREY
    assert (frame == GREY).all()
