"""A clip's face path: frames go in one by one, feature rows for any stretch of time come out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from psamf_edge.errors import IntegrityError
from psamf_edge.face.detector import FaceDetector
from psamf_edge.face.expression import EXPRESSION_FEATURES, ExpressionNet
from psamf_edge.face.geometry import GEOMETRY_FEATURES, measure
from psamf_edge.face.mesh import FaceMesh
from psamf_edge.face.tracker import FaceTracker, Observation
from psamf_edge.features import Feature

VISION_FEATURES: tuple[Feature, ...] = GEOMETRY_FEATURES + EXPRESSION_FEATURES
# faces that share one reading of the expression, which costs three times what measuring does: five readings a second,
# and hardly an expression comes and goes in less than a fifth of one
_HELD = 2
# faces described at a time, a multiple of _HELD: more are embedded no faster, and are left to wait for at a clip's end
_BATCH = 8
# A picture stays on the screen until the next, and speaks for a stretch that has none of its own; but no longer than an
# expression lasts, which is half a second to four (Ekman's macro-expressions).
_STANDS_MS = 4000


@dataclass(frozen=True)
class FaceFeatures:
    """The face in a stretch of a clip; if no frame falls into it, in the one that was still on the screen.

    values: (Tv, len(VISION_FEATURES)) float32, one row for each frame with a face; times_ms: (Tv,) float32.
    frames_seen: frames in the stretch, with a face or not. faces_seen_max: most faces at once in the whole clip.
    """

    values: np.ndarray
    times_ms: np.ndarray
    frames_seen: int
    frames_with_face: int
    faces_seen_max: int


class FacePath:
    """Tracks and describes the face of one clip at a time. It keeps feature rows and the last few patches, no frames.

    A second thread measures and embeds each full batch of faces while the next frames are tracked: the mesh leaves the
    interpreter free for more than half of their time.

    Args:
        detector_bytes: face_detector.onnx.
        mesh_bytes: face_mesh.onnx.
        expression: crops (N, 48, 48) uint8 to embeddings (N, len(EXPRESSION_FEATURES)) float32.

    Raises:
        IntegrityError: the bytes are not models.
    """

    def __init__(
        self, detector_bytes: bytes, mesh_bytes: bytes, expression: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self._tracker = FaceTracker(FaceDetector(detector_bytes), FaceMesh(mesh_bytes))
        self._expression = expression
        self._second = ThreadPoolExecutor(1)  # one: `expression` need not serve two threads; it ends with this object
        self.start()

    @classmethod
    def open(cls, read: Callable[[str], bytes]) -> FacePath:
        """The path with the three models that a bundle and a folder of weights hold under the same names.

        Args:
            read: a file's name to its content, as `Bundle.read`.
        """
        expression = ExpressionNet(read("expression.onnx")).embed
        return cls(read("face_detector.onnx"), read("face_mesh.onnx"), expression)

    def start(self) -> None:
        """Forget the last clip."""
        self._tracker.start()
        self._frame_times: list[int] = []  # of every frame
        self._face_times: list[int] = []  # of the frames with a face
        self._waiting: list[Observation] = []  # the last of those, which the second thread was not given yet
        self._batches: list[Future[np.ndarray]] = []  # rows that it makes of those before
        self._values = np.empty((0, len(VISION_FEATURES)), np.float32)  # rows of the batches that were waited for

    def observe(self, image: np.ndarray, time_ms: int) -> bool:
        """Take the next frame, (H, W, 3) uint8 RGB, in order of time; whether it shows a face.

        Raises:
            InputError: the image is not (H, W, 3) uint8.
        """
        observation = self._tracker.observe(image, time_ms)
        self._frame_times.append(time_ms)
        if observation is None:
            return False
        self._face_times.append(time_ms)
        self._waiting.append(observation)
        if len(self._waiting) == _BATCH:
            self._submit()
        return True

    def features(self, start_ms: float, end_ms: float) -> FaceFeatures:
        """What was seen from start_ms up to, not including, end_ms.

        Raises:
            IntegrityError: the expression model gave another shape than its features, or a value that is not finite.
        """
        start_ms = self._start_with_picture(start_ms, end_ms)
        first, last = np.searchsorted(self._face_times, [start_ms, end_ms])
        last = max(first, last)
        self._describe_up_to(last)
        values = self._values[first:last]  # (Tv, F)
        seen_first, seen_last = np.searchsorted(self._frame_times, [start_ms, end_ms])
        return FaceFeatures(
            values=values,
            times_ms=np.array(self._face_times[first:last], np.float32),
            frames_seen=int(max(seen_last - seen_first, 0)),
            frames_with_face=len(values),
            faces_seen_max=self._tracker.faces_seen_max,
        )

    def _start_with_picture(self, start_ms: float, end_ms: float) -> float:
        """Where the stretch starts, or the time of the frame that stands for it."""
        before, after = np.searchsorted(self._frame_times, [start_ms, end_ms])
        if before == after > 0 and start_ms - self._frame_times[before - 1] <= _STANDS_MS:
            return self._frame_times[before - 1]
        return start_ms

    def _describe_up_to(self, count: int) -> None:
        if len(self._face_times) - len(self._waiting) < count:
            self._submit()
        if len(self._values) < count:
            self._values = np.concatenate([self._values, *(batch.result() for batch in self._batches)])
            self._batches.clear()

    def _submit(self) -> None:
        self._batches.append(self._second.submit(self._describe, self._waiting))
        self._waiting = []

    def _describe(self, faces: list[Observation]) -> np.ndarray:
        """Feature rows (N, F)."""
        geometry = np.stack([measure(face.landmarks, face.image_size) for face in faces])  # (N, G)
        expressions = self._embed(np.stack([face.crop for face in faces[::_HELD]]))  # (N / _HELD, E)
        return np.concatenate([geometry, expressions.repeat(_HELD, axis=0)[: len(faces)]], axis=1)

    def _embed(self, crops: np.ndarray) -> np.ndarray:
        expected = (len(crops), len(EXPRESSION_FEATURES))
        embeddings = np.asarray(self._expression(crops), np.float32)  # (N, E)
        if embeddings.shape != expected or not np.isfinite(embeddings).all():
            raise IntegrityError(
                f"The expression model gave {embeddings.shape}, or values that are not finite, for {len(crops)} crops; "
                f"it must give finite values of shape {expected}: rebuild the bundle."
            )
        return embeddings
