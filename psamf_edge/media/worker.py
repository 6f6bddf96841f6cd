"""The decoder child: `python -m psamf_edge.media.worker MEMORY [DESCRIPTOR]`. Requests on stdin, answers on stdout.

MEMORY is what it may use, in bytes; DESCRIPTOR the memory that it shares with the reader, if there is any (slots). See
protocol for what is said, and sandbox for what it cannot do.

Media files are hostile until proven otherwise, so that only this process, which has limits and can be killed, lets
FFmpeg touch them: PyAV is imported by it alone (here, in decode and in tracks). It imports no NumPy, which halves its
start.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import mmap
import os
import select
import signal
import socket
import sys
import time
from threading import Thread
from typing import Any, BinaryIO

import av

from psamf_edge.media import sandbox
from psamf_edge.media.decode import DECODER_THREADS, Clip, ClipError
from psamf_edge.media.limits import Limits
from psamf_edge.media.protocol import Kind, ProtocolError, pack, receive
from psamf_edge.media.slots import SLOT_BYTES, SLOTS
from psamf_edge.media.tracks import Emit


class Sha256(Thread):
    """Hashes an open file while we decode: hashlib lets go of the interpreter lock."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self._descriptor, self._digest, self._error = descriptor, hashlib.sha256(), None
        self._wanted = True
        self.start()

    def run(self) -> None:
        """Does not move the file's position: the demuxer reads the same descriptor."""
        offset = 0
        try:
            while self._wanted and (block := os.pread(self._descriptor, 1 << 20, offset)):
                self._digest.update(block)
                offset += len(block)
        except OSError as error:
            self._error = error

    def hex(self) -> str:
        """Wait for it. Raises OSError where the file could not be read to its end."""
        self.join()
        if self._error:
            raise self._error
        return self._digest.hexdigest()

    def stop(self) -> None:
        """Leave the rest: nobody asks any more."""
        self._wanted = False
        self.join()


class CpuBudget:
    """The CPU time that one clip may take: the longer it declares or turns out to be, the more."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._start_s, self._granted_s = limits, time.process_time(), 0.0
        self.reach(0)

    def reach(self, clip_s: float) -> None:
        """The clip is at least so long."""
        seconds = DECODER_THREADS * self._limits.deadline_s(clip_s)  # more is a decoder that spins
        if seconds > self._granted_s:
            self._granted_s = seconds
            sandbox.allow_cpu(self._start_s + seconds)


def read_clip(request: dict[str, Any], descriptor: int, emit: Emit) -> None:
    """Answer one request: the clip's messages, or one ERROR. Closes the descriptor."""
    limits = Limits(**request["limits"])
    try:
        with open(descriptor, "rb") as file:  # a file that does not know its name
            budget = CpuBudget(limits)

            def emit_within(kind: Kind, fields: dict[str, Any], payload: Any = b"") -> None:
                budget.reach(fields.get("time_ms", fields.get("start_ms", 0)) / 1000)
                emit(kind, fields, payload)

            clip = Clip(file, request, emit_within)
            budget.reach(clip.declared_us / 1e6)
            hashed = Sha256(descriptor)
            try:
                with clip.container:
                    clip.decode()
                    footer = clip.footer()
                emit(Kind.FOOTER, footer | {"sha256": hashed.hex()})
            finally:
                hashed.stop()  # before the file is closed under it
    except (BrokenPipeError, ProtocolError):  # the reader's end, not the clip's
        raise
    except ClipError as error:
        emit(Kind.ERROR, {"message": str(error)})
    except Exception as error:  # whatever a hostile file provokes ends this clip, not the next one
        problem = f"{type(error).__name__}: {error}"
        emit(Kind.ERROR, {"message": f"cannot be decoded ({problem}); convert it to mp4 and try again"})


class Wire:
    """The child's end of the socket and the pipe, and the slots, or None where there are none."""

    def __init__(self, requests: socket.socket, answers: BinaryIO, slots: mmap.mmap | None) -> None:
        self._requests, self._answers, self._slots = requests, answers, slots
        self._descriptor: int | None = None  # of the clip that the last request is about
        self._filled = self._taken = 0  # payloads that were put into slots, and those that the reader took

    def next_request(self) -> tuple[dict[str, Any], int]:
        """Its fields, and the clip's descriptor. Raises BrokenPipeError or ProtocolError."""
        while True:
            kind, fields, _ = receive(self._read_exactly)
            if kind is Kind.REQUEST:
                if self._descriptor is None:
                    raise ProtocolError("a request without its clip")
                descriptor, self._descriptor = self._descriptor, None
                return fields, descriptor
            self._count_taken(kind)

    def emit(self, kind: Kind, fields: dict[str, Any], payload: Any = b"") -> None:
        """Send a message; waits while the reader is behind. Raises BrokenPipeError or ProtocolError."""
        view = memoryview(payload).cast("B")
        in_slot = kind is Kind.FRAME and self._slots is not None and view.nbytes <= SLOT_BYTES
        if in_slot:
            fields = fields | {"slot": self._fill_slot(view)}
        self._answers.write(pack(kind, fields, view.nbytes))
        if not in_slot:
            self._answers.write(view)
        self._answers.flush()

    def _fill_slot(self, view: memoryview) -> int:
        while self._filled - self._taken == SLOTS:
            self._count_taken(receive(self._read_exactly)[0])
        slot = self._filled % SLOTS
        start = slot * SLOT_BYTES
        self._slots[start : start + view.nbytes] = view
        self._filled += 1
        return slot

    def _count_taken(self, kind: Kind) -> None:
        if kind is not Kind.TAKEN:
            raise ProtocolError(f"unexpected {kind.name}")
        self._taken += 1

    def _read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more, descriptors, *_ = socket.recv_fds(self._requests, size - len(data), 1)
            if not more:
                raise BrokenPipeError  # no EOFError: FFmpeg's own, over a clip, is one too
            data += more
            self._descriptor = descriptors[0] if descriptors else self._descriptor
        return data


def _end_with_reader() -> None:
    """Wait until the reader's end of the socket is closed, however that came about, and stop at once.

    Between two messages nothing else would tell: a file of gigabytes would be hashed to its end for nobody.
    """
    gone = select.poll()
    gone.register(0, select.POLLRDHUP)
    gone.poll()
    os._exit(0)


def main() -> None:
    """Serve until the reader is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the reader, which ends this process
    memory, *inherited = map(int, sys.argv[1:])
    sandbox.limit_resources(memory)
    av.logging.set_level(None)
    slots = mmap.mmap(inherited[0], SLOTS * SLOT_BYTES) if inherited else None
    wire = Wire(socket.socket(fileno=0), os.fdopen(os.dup(1), "wb"), slots)
    os.dup2(2, 1)  # a stray print of a library must not land among the messages
    hashlib.sha256()  # reads OpenSSL's settings the first time, which it could not after this:
    sandbox.seal()
    if hasattr(select, "POLLRDHUP"):  # Linux
        Thread(target=_end_with_reader, daemon=True).start()
    gc.freeze()  # what is there by now stays: to look through it after each clip would take milliseconds
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, ProtocolError):
        while True:
            read_clip(*wire.next_request(), wire.emit)
            gc.collect()  # a clip's streams hang in cycles, and hold megabytes until Python comes to look


if __name__ == "__main__":
    main()
