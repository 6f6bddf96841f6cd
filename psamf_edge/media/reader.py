"""Reads clips through a decoder child (see worker): video frames on a fixed time grid, sound at 16 kHz, subtitles."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from dataclasses import asdict
from typing import Any

from psamf_edge.errors import InputError, UsageError
from psamf_edge.media.answers import Allowance, to_event
from psamf_edge.media.child import Child
from psamf_edge.media.clip_file import open_clip
from psamf_edge.media.events import AudioChunk, Caption, ClipFooter, ClipHeader, Event, Frame
from psamf_edge.media.limits import Limits
from psamf_edge.media.protocol import Kind, ProtocolError, pack, receive

MAX_FRAME_RATE = 240.0  # frames a second; above it the caller mixed up a period and a rate
MIN_SIDE, MAX_SIDE = 16, 8192  # pixels; no face can be found below, no camera records above


class MediaReader:
    """A decoder child process and the way to it; a context manager. Starts the child at once and without waiting.

    The child serves clip after clip. After a crash, a missed deadline or a read that was given up, the next read starts
    a new one. Threads may share a reader; their reads take turns.

    Args:
        limits: on each clip.

    Raises:
        MissingDependencyError: no process can be started.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._turn = threading.Lock()
        self._reading_thread: int | None = None
        self._child: Child | None = Child(self.limits.memory)

    def __enter__(self) -> MediaReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child. A later read would start a new one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def read(
        self,
        path: str | os.PathLike[str],
        video: bool = True,
        audio: bool = True,
        frame_rate: float = 10.0,
        max_side: int = 640,
        deadline_s: float | None = None,
    ) -> Generator[Event, None, None]:
        """Decode a local file, streamed: no more than one frame is held here at a time.

        A read that is given up before the footer keeps the reader until it is closed.

        Args:
            path: a video, audio or image file. Never an address or a playlist.
            video, audio: what to decode; a stream that the file lacks is no error.
            frame_rate: grid of the frames: the first frame at or after each k / frame_rate seconds is given, once.
            max_side: longer side of the frames, in pixels, at most; nothing is enlarged.
            deadline_s: seconds that may be spent waiting for the child (the caller's own work does not count).
                Default: as the limits say, which is 60 s or 4 times the length of the clip, whichever is more: the
                length that it declares, or the time that was reached where that is later.

        Yields:
            ClipHeader, then Frame, AudioChunk and Caption, each kind in order of time, then ClipFooter.

        Raises:
            InputError: the file cannot be used, the child died over it, or the deadline passed.
            UsageError: an option is out of range, or this thread has not finished another read of the same reader.
            MissingDependencyError: PyAV is not installed, or the child cannot be started.
        """
        if not 0 < frame_rate <= MAX_FRAME_RATE:
            raise UsageError(f"frame_rate is {frame_rate}; give a number above 0 and up to {MAX_FRAME_RATE:g}.")
        if not MIN_SIDE <= max_side <= MAX_SIDE:
            raise UsageError(f"max_side is {max_side}; give a number of pixels from {MIN_SIDE} to {MAX_SIDE}.")
        if self._reading_thread == threading.get_ident():
            raise UsageError(
                "This reader is in the middle of another clip; finish or close that read, or use two readers."
            )
        clip_name, descriptor = open_clip(path, self.limits.bytes)
        request = {
            "video": bool(video),
            "audio": bool(audio),
            "frame_rate": float(frame_rate),
            "max_side": int(max_side),
            "limits": asdict(self.limits),
        }
        try:
            with self._turn:
                self._reading_thread = threading.get_ident()
                try:
                    footer = yield from self._converse(clip_name, descriptor, request, deadline_s)
                finally:
                    self._reading_thread = None
        finally:
            os.close(descriptor)
        yield footer  # with the turn passed on: a caller who stops at the footer blocks nobody

    def _converse(
        self, clip_name: str, descriptor: int, request: dict[str, Any], deadline_s: float | None
    ) -> Generator[Event, None, ClipFooter]:
        """Yield all events but the footer, which is returned."""
        if self._child is None or not self._child.is_alive():
            self.close()
            self._child = Child(self.limits.memory)
        child = self._child
        granted_s = child.patience_s = self.limits.deadline_s(0) if deadline_s is None else deadline_s
        finished = False
        allowance = Allowance(self.limits.seconds, request["frame_rate"])
        warnings: list[str] = []
        try:
            child.send(pack(Kind.REQUEST, request), descriptor)
            while True:
                kind, fields, payload_bytes = receive(child.read_exactly)
                if kind is Kind.ERROR:
                    finished = True
                    raise InputError(f"{clip_name} {fields['message']}.")
                allowance.spend(kind, payload_bytes, fields)
                if "slot" in fields:
                    payload = child.take(fields["slot"], payload_bytes)
                else:
                    payload = child.read_array(payload_bytes)
                event = to_event(kind, fields, payload, warnings, self.limits.seconds)
                if deadline_s is None:
                    reached_ms = min(_reached_ms(event), 1000 * self.limits.seconds)  # it may be too huge to divide
                    more_s = max(0.0, self.limits.deadline_s(reached_ms / 1000) - granted_s)
                    granted_s += more_s
                    child.patience_s += more_s
                if kind is Kind.FOOTER:
                    finished = True
                    return event
                yield event
        except TimeoutError as error:
            raise InputError(
                f"{clip_name} was given up: decoding passed its deadline; cut the clip shorter, or raise the limit "
                "deadline (or deadline_s)."
            ) from error
        except (EOFError, ConnectionError) as error:
            raise child.obituary(clip_name) from error
        except (ProtocolError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{clip_name} cannot be read: its decoder answered nonsense ({error}).") from error
        finally:
            if not finished:
                self.close()


def _reached_ms(event: Event) -> int:
    """How long a clip is at least, by one event: what it declares, and, since live recordings declare nothing, what
    has come of it.
    """
    match event:
        case ClipHeader(duration_ms=ms) | Frame(time_ms=ms) | AudioChunk(start_ms=ms) | Caption(start_ms=ms):
            return ms
    return 0
