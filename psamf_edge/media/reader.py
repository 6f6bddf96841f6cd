"""Reads clips through a decoder child (see worker): video frames on a fixed time grid, sound at 16 kHz, subtitles."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import re
import select
import stat
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import numpy as np

from psamf_edge.errors import InputError, MissingDependencyError, UsageError
from psamf_edge.media import slots
from psamf_edge.media.events import AudioChunk, Caption, ClipFooter, ClipHeader, Event, Frame
from psamf_edge.media.protocol import MAX_CLIP_BYTES, MAX_CLIP_S, Kind, ProtocolError, pack, receive

DEADLINE_FLOOR_S = 60.0  # a short clip on a busy Jetson, with the child still starting
DEADLINE_FACTOR = 4.0  # decoding slower than a quarter of real time is a stuck decoder, not a slow one
MAX_FRAME_RATE = 240.0  # frames a second; above it the caller mixed up a period and a rate
MIN_SIDE, MAX_SIDE = 16, 8192  # pixels; no face can be found below, no camera records above
TOP = Path(__file__).resolve().parents[2]  # holds the psamf_edge that runs here: the child must run the same


class MediaReader:
    """A decoder child process and the way to it; a context manager. Starts the child at once and without waiting.

    The child serves clip after clip. After a crash, a missed deadline or a read that was given up, the next read starts
    a new one. Threads may share a reader; their reads take turns.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._reading_thread: int | None = None
        self._child: _Child | None = _Child()

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
    ) -> Iterator[Event]:
        """Decode a local file, streamed: no more than one frame is held here at a time.

        Args:
            path: a video, audio or image file. Never an address or a playlist.
            video, audio: what to decode; a stream that the file lacks is no error.
            frame_rate: grid of the frames: the first frame at or after each k / frame_rate seconds is given, once.
            max_side: longer side of the frames, in pixels, at most; nothing is enlarged.
            deadline_s: seconds that may be spent waiting for the child (the caller's own work does not count).
                Default: 60 s or 4 times the duration of the clip, whichever is more.

        Yields:
            ClipHeader, then Frame, AudioChunk and Caption, each kind in order of time, then ClipFooter.

        Raises:
            InputError: the file cannot be used, the child died over it, or the deadline passed.
            UsageError: an option is out of range, or this thread has not finished another read of the same reader.
            MissingDependencyError: PyAV is not installed.
        """
        if not 0 < frame_rate <= MAX_FRAME_RATE:
            raise UsageError(f"frame_rate is {frame_rate}; give a number above 0 and up to {MAX_FRAME_RATE:g}.")
        if not MIN_SIDE <= max_side <= MAX_SIDE:
            raise UsageError(f"max_side is {max_side}; give a number of pixels from {MIN_SIDE} to {MAX_SIDE}.")
        if self._reading_thread == threading.get_ident():
            raise UsageError(
                "This reader is in the middle of another clip; finish or close that read, or use two readers."
            )
        clip_name = _check_file(path)
        request = {
            "path": os.path.abspath(os.fspath(path)),
            "video": bool(video),
            "audio": bool(audio),
            "frame_rate": float(frame_rate),
            "max_side": int(max_side),
        }
        with self._turn:
            self._reading_thread = threading.get_ident()
            try:
                footer = yield from self._converse(clip_name, request, deadline_s)
            finally:
                self._reading_thread = None
        yield footer  # with the turn passed on: a caller who stops at the footer blocks nobody

    def _converse(
        self, clip_name: str, request: dict[str, Any], deadline_s: float | None
    ) -> Generator[Event, None, ClipFooter]:
        """Yield all events but the footer, which is returned."""
        if self._child is None or not self._child.is_alive():
            self.close()
            self._child = _Child()
        child = self._child
        child.patience_s = DEADLINE_FLOOR_S if deadline_s is None else deadline_s
        finished = False
        warnings: list[str] = []
        try:
            child.send(pack(Kind.REQUEST, request))
            while True:
                kind, fields, payload_bytes = receive(child.read_exactly)
                if kind is Kind.ERROR:
                    finished = True
                    raise InputError(f"{clip_name} {fields['message']}.")
                if "slot" in fields:
                    payload = child.take(fields["slot"], payload_bytes)
                else:
                    payload = child.read_array(payload_bytes)
                event = _event(kind, fields, payload, warnings)
                if kind is Kind.HEADER and deadline_s is None:
                    clip_s = min(event.duration_ms, 1000 * MAX_CLIP_S) / 1000  # before the division: it may be huge
                    child.patience_s += max(0.0, DEADLINE_FACTOR * clip_s - DEADLINE_FLOOR_S)
                if kind is Kind.FOOTER:
                    finished = True
                    return event
                yield event
        except TimeoutError as error:
            raise InputError(
                f"{clip_name} was given up: decoding passed its deadline; cut the clip shorter, or raise deadline_s."
            ) from error
        except (EOFError, BrokenPipeError) as error:
            if importlib.util.find_spec("av") is None:
                raise MissingDependencyError("Reading media needs PyAV; install it: pip install 'av>=17'.") from error
            raise InputError(
                f"{clip_name} cannot be read: the decoder died over it; convert it to mp4 and try again."
            ) from error
        except (ProtocolError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{clip_name} cannot be read: its decoder answered nonsense ({error}).") from error
        finally:
            if not finished:
                self.close()


class _Child:
    """The process, its pipes, the memory that it shares, and the patience that is left for it."""

    def __init__(self) -> None:
        shared = slots.create()
        inherited = [] if shared is None else [shared]
        try:
            self._slots = _mapped(shared)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "psamf_edge.media.worker", *map(str, inherited)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd=TOP,  # `-m` looks in the working directory first: not in one that the user's files may be in
                pass_fds=inherited,
            )
        finally:
            for descriptor in inherited:  # the mapping and the child keep the memory
                os.close(descriptor)
        self.patience_s = DEADLINE_FLOOR_S
        self.end = weakref.finalize(self, _end, self._process)  # runs at interpreter exit too
        self._readable = select.poll()
        self._readable.register(self._process.stdout, select.POLLIN)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: bytes) -> None:
        self._process.stdin.write(message)

    def take(self, slot: int, size: int) -> np.ndarray:
        """The first `size` bytes of a slot, (size,) uint8, which the child may fill again. Raises ValueError."""
        if not (type(slot) is int and 0 <= slot < len(self._slots) and size <= slots.SLOT_BYTES):
            raise ValueError(f"{size} bytes in slot {slot!r}")
        data = self._slots[slot, :size].copy()
        self.send(pack(Kind.TAKEN, {}))
        return data

    def read_exactly(self, size: int) -> bytes:
        return self.read_array(size).tobytes()

    def read_array(self, size: int) -> np.ndarray:
        """The next `size` bytes, (size,) uint8. Raises EOFError or TimeoutError."""
        data = np.empty(size, np.uint8)
        view = memoryview(data)
        while view:
            started = time.monotonic()
            ready = self._readable.poll(max(0.0, self.patience_s) * 1000)
            self.patience_s -= time.monotonic() - started
            if not ready:
                raise TimeoutError
            count = self._process.stdout.readinto(view)
            if not count:
                raise EOFError
            view = view[count:]
        return data


def _mapped(descriptor: int | None) -> np.ndarray:
    """The shared memory by slot, (SLOTS, SLOT_BYTES) uint8, to be read only; (0, SLOT_BYTES) where there is none."""
    if descriptor is None:
        return np.empty((0, slots.SLOT_BYTES), np.uint8)
    memory = mmap.mmap(descriptor, slots.SLOTS * slots.SLOT_BYTES, access=mmap.ACCESS_READ)
    return np.frombuffer(memory, np.uint8).reshape(slots.SLOTS, slots.SLOT_BYTES)


def _end(process: subprocess.Popen) -> None:
    process.kill()  # it holds nothing worth a farewell
    process.wait()
    process.stdin.close()
    process.stdout.close()


def _event(kind: Kind, fields: dict[str, Any], payload: np.ndarray, warnings: list[str]) -> Event:
    """Build and check one event; whatever does not fit raises KeyError, TypeError or ValueError."""
    if kind is Kind.FRAME:
        height, width, stride = fields["height"], fields["width"], fields["stride"]
        if not (type(height) is type(width) is int and height > 0 and width > 0):
            raise ValueError("a frame without a size")
        rows = payload.reshape(height, stride)[:, : 3 * width]  # (H, 3 W)
        image = np.rot90(rows.reshape(height, width, 3), fields["rotation"] // 90)  # (H, W, 3)
        return Frame(_time(fields, "time_ms"), np.ascontiguousarray(image))
    if kind is Kind.AUDIO:
        samples = payload.view(np.float32)  # (N,)
        if not np.isfinite(samples).all():
            samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
            warnings[:] = ["Some audio samples were not numbers and count as silence."]
        return AudioChunk(_time(fields, "start_ms"), samples)
    if kind is Kind.FOOTER:
        return _plain(ClipFooter, fields | {"warnings": fields["warnings"] + warnings})
    if kind in (Kind.HEADER, Kind.CAPTION):
        return _plain(ClipHeader if kind is Kind.HEADER else Caption, fields)
    raise ValueError(f"unexpected {kind.name}")


def _time(fields: dict[str, Any], name: str) -> int:
    """A time inside a clip, in ms."""
    value = fields[name]
    if type(value) is not int or not 0 <= value <= 1000 * MAX_CLIP_S:
        raise ValueError(f"{name} is {value!r}")
    return value


def _plain(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass `kind` from JSON, once each value has the type of its field."""
    for field in dataclass_fields(kind):
        if type(values[field.name]).__name__ != field.type.partition("[")[0]:
            raise TypeError(f"{field.name} is {values[field.name]!r}")
    return kind(**values)


def _check_file(path: str | os.PathLike[str]) -> str:
    """The clip's name for messages, quoted, with control characters escaped; or InputError."""
    text = os.fspath(path)
    name = json.dumps(text, ensure_ascii=False)
    try:
        status = os.stat(text)
    except (FileNotFoundError, NotADirectoryError) as error:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
            raise InputError(f"{name} is an address; only local files are read: download it first.") from error
        raise InputError(f"{name} does not exist; check the path.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{name} cannot be opened ({error}); check the path and its permissions.") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name} is a directory; name the media files in it.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name} is a pipe, socket or device; save the recording to a file first.")
    if status.st_size == 0:
        raise InputError(f"{name} is empty; copy or record it again.")
    if status.st_size > MAX_CLIP_BYTES:
        raise InputError(
            f"{name} has {status.st_size} bytes; at most {MAX_CLIP_BYTES} are read: cut it, or convert it."
        )
    if not os.access(text, os.R_OK):
        raise InputError(f"{name} may not be read by this user; change its permissions.")
    return name
