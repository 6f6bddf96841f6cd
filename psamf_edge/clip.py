"""One clip, read: its sound and captions in memory, its frames already turned into face measures and dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from psamf_edge.media.events import AudioChunk, Caption, ClipFooter, ClipHeader, Frame
from psamf_edge.media.protocol import SAMPLE_RATE
from psamf_edge.media.reader import MediaReader

Item = TypeVar("Item")
SAMPLE_BYTES = np.dtype(np.float32).itemsize


@dataclass
class Clip:
    """What of a clip is kept. `samples`: (N,) float32, 16 kHz mono, its first sample at time 0; about 4 MB a minute."""

    name: str
    sha256: str = ""
    duration_ms: int = 0
    has_video: bool = False
    has_audio: bool = False
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    captions: list[Caption] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class FrameSink(Protocol):
    """What takes the frames of a clip: `psamf_edge.face.features.FacePath`."""

    def start(self) -> None: ...

    def observe(self, image: np.ndarray, time_ms: int) -> bool: ...


class Stopwatch:
    """Time spent in named stages, on a clock that nobody sets back. `ms`: stage to milliseconds."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside to the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = self.ms.get(name, 0.0) + 1000 * (time.perf_counter() - start)

    def waits(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """The items; only the time until each arrives is counted, not what is done with it."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item


def read_clip(
    reader: MediaReader,
    path: Path,
    face: FrameSink | None,
    audio: bool,
    frame_rate: float,
    watch: Stopwatch,
    on_progress: Callable[[float], None] | None = None,
) -> Clip:
    """Read a clip once, from its first event to its last.

    Args:
        reader: the decoder child.
        path: the clip.
        face: what to give the frames to, or None to leave them undecoded.
        audio: whether to decode the sound.
        frame_rate: of the frames that `face` gets.
        watch: counts the stages `decode` (waiting for the child, which decodes ahead) and `face`.
        on_progress: called with the share of the clip that is read, in [0, 1]; never for a clip that declares no
            length.

    Raises:
        InputError: the clip cannot be used.
    """
    clip = Clip(str(path))
    samples = bytearray()  # grows in place: a list of chunks would need twice the memory once they are joined
    declared_ms = 0

    def progress(time_ms: int) -> None:
        if on_progress and declared_ms:
            on_progress(min(time_ms / declared_ms, 1.0))

    if face is not None:
        face.start()
    # Closed also where `face` or `on_progress` raises: as long as somebody kept that, the reader would wait for more.
    with closing(reader.read(path, video=face is not None, audio=audio, frame_rate=frame_rate)) as events:
        for event in watch.waits("decode", events):
            match event:
                case ClipHeader():
                    clip.has_video, clip.has_audio, declared_ms = event.has_video, event.has_audio, event.duration_ms
                case Frame():
                    with watch.stage("face"):
                        face.observe(event.image, event.time_ms)
                    progress(event.time_ms)
                case AudioChunk():
                    if not samples:  # sound that starts after the pictures
                        samples = bytearray(SAMPLE_BYTES * (event.start_ms * SAMPLE_RATE // 1000))
                    samples += event.samples.tobytes()
                    progress(event.start_ms)
                case Caption():
                    clip.captions.append(event)
                case ClipFooter():
                    clip.sha256, clip.warnings = event.sha256, list(event.warnings)
                    clip.duration_ms = event.duration_ms or declared_ms  # nothing was decoded: believe the container
    clip.samples = np.frombuffer(samples, np.float32) if samples else clip.samples  # (N,)
    return clip
