"""One clip read for its scores: what happens to the reader when the caller stops in the middle."""

from __future__ import annotations

import threading

import media_files as files
import numpy as np
import pytest

from psamf_edge.clip import Stopwatch, read_clip
from psamf_edge.media.reader import MediaReader


class Frames:
    """A frame sink that fails where it is told to, as a model may."""

    def __init__(self, failing: bool = False) -> None:
        self.count, self._failing = 0, failing

    def start(self) -> None:
        self.count = 0

    def observe(self, image: np.ndarray, time_ms: int) -> bool:
        self.count += 1
        if self._failing:
            raise RuntimeError("the face model failed")
        return True


def cancel(share: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("face", "on_progress"), [(Frames(), cancel), (Frames(failing=True), None)])
def test_a_read_that_the_caller_ends_leaves_the_reader_to_others(tmp_path, face, on_progress):
    clip = files.write_clip(tmp_path / "clip.mp4", 1)
    with MediaReader() as reader:
        with pytest.raises((KeyboardInterrupt, RuntimeError)) as kept:  # as a future or a log record keeps it
            read_clip(reader, clip, face, True, 10, Stopwatch(), on_progress)
        assert read_clip(reader, clip, Frames(), True, 10, Stopwatch()).sha256
        others = []
        thread = threading.Thread(
            target=lambda: others.append(read_clip(reader, clip, Frames(), True, 10, Stopwatch())), daemon=True
        )
        thread.start()
        thread.join(60)  # generous: the machine may be busy
        assert others
        assert kept.value.__traceback__ is not None
