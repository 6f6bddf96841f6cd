"""From decoded frames to what is sent: pictures on a fixed grid, sound at 16 kHz. Runs in the decoder child only."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
from av.video.reformatter import VideoReformatter

from psamf_edge.media.protocol import SAMPLE_RATE, Kind

GRID_TOLERANCE_US = 500  # Matroska rounds times to 1 ms: a frame half of that before its grid point is on it
CHUNK_SAMPLES = SAMPLE_RATE // 2  # half a second a message: small enough to stream, large enough to cost nothing
GAP_SAMPLES = SAMPLE_RATE // 10  # a hole shorter than 100 ms is the jitter of coarse timestamps, not lost sound

Emit = Callable[..., None]  # (kind, fields, payload)


class FrameGrid:
    """The first frame at or after each multiple of 1 / frame_rate; one that is first for two points is taken once."""

    def __init__(self, frame_rate: float) -> None:
        self._step_us = 1_000_000 / Fraction(frame_rate).limit_denominator(1001)
        self._next_point = 0

    def takes(self, time_us: int) -> bool:
        point = math.floor((time_us + GRID_TOLERANCE_US) / self._step_us)
        if point < self._next_point:
            return False
        self._next_point = point + 1
        return True


class AudioTrack:
    """Resamples to 16 kHz mono float32, fills holes with silence, and sends chunks of half a second.

    Positions are in samples at 16 kHz from the start of the clip. A hole that ends behind `seconds`, which no clip
    passes, is a broken timestamp, and is not filled.
    """

    def __init__(self, send: Emit, time_base: Fraction | None, start_us: int, seconds: int) -> None:
        self._send, self._time_base, self._start_s = send, time_base, Fraction(start_us, 1_000_000)
        self._last = SAMPLE_RATE * seconds
        self._resampler = self._form = None
        self._buffer = bytearray()
        self._end = 0  # position after the last sample in the buffer
        self._due = Fraction(0)  # position after the last sample that was decoded; the resampler holds the difference
        self.sent = 0

    def push(self, frame: Any) -> int:
        """Take a decoded frame; returns where it ends, in microseconds."""
        position = self._due if frame.pts is None else (frame.pts * self._time_base - self._start_s) * SAMPLE_RATE
        if self._form is None:
            self._end, self._due = round(position), position
        hole = round(position - self._due) if position <= self._last else 0
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form or hole > GAP_SAMPLES:  # a broadcast may change its form midway
            self._drain()
            if hole > GAP_SAMPLES:
                self._fill(hole)
            self._form, self._resampler = form, av.AudioResampler("fltp", "mono", SAMPLE_RATE)
        self._due += Fraction(frame.samples * SAMPLE_RATE, frame.sample_rate)
        for resampled in self._resampler.resample(frame):
            self._append(_samples(resampled))
        return round(self._due * 1_000_000 / SAMPLE_RATE)

    def finish(self) -> None:
        """Send all that is left."""
        self._drain()
        if self._buffer:
            self._send_chunk(len(self._buffer))

    def _drain(self) -> None:
        """Flush the resampler. Its filter's tail is a few ms longer than the input: what is not due is cut."""
        if self._resampler is not None:
            tail = b"".join(_samples(resampled) for resampled in self._resampler.resample(None))
            due = max(0, round(self._due) - self._end)
            self._append(tail[: 4 * due].ljust(4 * due, b"\0"))

    def _fill(self, hole: int) -> None:
        for start in range(0, hole, CHUNK_SAMPLES):  # in pieces: hours of silence are nearly a gigabyte
            self._append(bytes(4 * min(CHUNK_SAMPLES, hole - start)))
        self._due += hole

    def _append(self, samples: bytes) -> None:
        before_zero = max(0, -self._end)  # encoder priming has negative times: it is no part of the clip
        self._end += len(samples) // 4
        self._buffer += samples[4 * before_zero :]
        while len(self._buffer) >= 4 * CHUNK_SAMPLES:
            self._send_chunk(4 * CHUNK_SAMPLES)

    def _send_chunk(self, size: int) -> None:
        start = self._end - len(self._buffer) // 4
        self._send(Kind.AUDIO, {"start_ms": round(start * 1000 / SAMPLE_RATE)}, bytes(self._buffer[:size]))
        del self._buffer[:size]
        self.sent += size // 4


def _samples(frame: Any) -> bytes:
    return bytes(memoryview(frame.planes[0])[: 4 * frame.samples])


class RgbScaler:
    """Square pixels, at most max_side, RGB: one pass of FFmpeg's scaler, set up once for a clip.

    `VideoFrame.reformat` would set it up for each frame, with threads: twice the work at 640 x 480.
    """

    def __init__(self, max_side: int) -> None:
        self._max_side = max_side
        self._reformatter = VideoReformatter()

    def convert(self, frame: Any, aspect: float) -> tuple[dict[str, int], Any]:
        """Fields and payload of a FRAME message. Rows keep the scaler's stride; the reader crops.

        aspect: width of a stored pixel over its height.
        """
        width, height = frame.width * aspect, frame.height
        scale = min(1.0, self._max_side / max(width, height))
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
        return {"width": width, "height": height, "stride": rgb.planes[0].line_size}, rgb.planes[0]
