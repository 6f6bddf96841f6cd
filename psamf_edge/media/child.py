"""The decoder's process seen from outside: started, talked to, waited for with patience, and always reaped."""

from __future__ import annotations

import contextlib
import importlib.util
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np

from psamf_edge.errors import InputError, MissingDependencyError
from psamf_edge.media import slots
from psamf_edge.media.limits import DEADLINE_FLOOR_S
from psamf_edge.media.protocol import Kind, pack

DYING_S = 1.0  # between the end of a process's answers and its own
TOP = Path(__file__).resolve().parents[2]  # holds the psamf_edge that runs here: the child must run the same


class Child:
    """The process, its pipes, the memory that it shares, and the patience that is left for it."""

    def __init__(self, memory: int) -> None:
        shared = slots.create()
        inherited = [] if shared is None else [shared]
        try:
            self._slots = _mapped(shared)
            self._requests, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "psamf_edge.media.worker", *map(str, [memory, *inherited])],
                    stdin=theirs,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    cwd=TOP,  # `-m` looks in the working directory first: not in one that the user's files may be in
                    pass_fds=inherited,
                )
        except OSError as error:
            raise MissingDependencyError(
                f"The decoder's process cannot be started ({error.strerror}); free memory, or raise the limits on "
                "processes and open files (ulimit -u, ulimit -n)."
            ) from error
        finally:
            for descriptor in inherited:  # the mapping and the child keep the memory
                os.close(descriptor)
        self.patience_s = float(DEADLINE_FLOOR_S)
        self._answered = False
        self.end = weakref.finalize(self, _end, self._process, self._requests)  # runs at interpreter exit too
        self._readable = select.poll()
        self._readable.register(self._process.stdout, select.POLLIN)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: bytes, descriptor: int | None = None) -> None:
        """Raises TimeoutError, where a child that was taken over reads nothing, or ConnectionError."""
        started = time.monotonic()
        self._requests.settimeout(max(self.patience_s, 1e-3))
        if descriptor is not None:
            message = message[socket.send_fds(self._requests, [message], [descriptor]) :]
        self._requests.sendall(message)
        self.patience_s -= time.monotonic() - started

    def obituary(self, clip_name: str) -> InputError | MissingDependencyError:
        """What to say of a child that is gone."""
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(DYING_S)
        if importlib.util.find_spec("av") is None:
            return MissingDependencyError("Reading media needs PyAV; install it: pip install 'av>=17'.")
        if code is not None and code > 0 and not self._answered:
            return MissingDependencyError(
                f"The decoder's process cannot start here (exit code {code}); see `psamf-edge doctor`, and the limits "
                "of this shell (ulimit -a)."
            )
        if code == -signal.SIGXCPU:
            return InputError(
                f"{clip_name} was given up: decoding took too much processor time; cut the clip shorter, or raise the "
                "limit deadline."
            )
        how = f" ({signal.Signals(-code).name})" if code is not None and -code in set(signal.Signals) else ""
        return InputError(
            f"{clip_name} cannot be read: the decoder died over it{how}; convert it to mp4 and try again."
        )

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
            self._answered = True
            view = view[count:]
        return data


def _mapped(descriptor: int | None) -> np.ndarray:
    """The shared memory by slot, (SLOTS, SLOT_BYTES) uint8, to be read only; (0, SLOT_BYTES) where there is none."""
    if descriptor is None:
        return np.empty((0, slots.SLOT_BYTES), np.uint8)
    memory = mmap.mmap(descriptor, slots.SLOTS * slots.SLOT_BYTES, access=mmap.ACCESS_READ)
    return np.frombuffer(memory, np.uint8).reshape(slots.SLOTS, slots.SLOT_BYTES)


def _end(process: subprocess.Popen, requests: socket.socket) -> None:
    process.kill()  # it holds nothing worth a farewell
    process.wait()
    requests.close()
    process.stdout.close()
