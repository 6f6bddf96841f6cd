"""The decoder child: `python -m psamf_edge.media.worker [DESCRIPTOR]`. Requests on stdin, answers on stdout (protocol).

DESCRIPTOR is the memory that it shares with the reader, if there is any (slots).

Media files are hostile until proven otherwise, so that only this process, which has limits and can be killed, lets
FFmpeg touch them: PyAV is imported by it alone (here, in decode and in tracks). It imports no NumPy, which halves its
start.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import av

from psamf_edge.media.decode import Clip, ClipError
from psamf_edge.media.protocol import Kind, ProtocolError, pack, receive
from psamf_edge.media.slots import SLOT_BYTES, SLOTS
from psamf_edge.media.tracks import Emit

MEMORY_LIMIT = 4 << 30  # bytes of private data: an 8K H.264 stream with its reference frames needs under 2 GiB
MEMORY_SHARE = 0.5  # of the machine's, where that is less: the rest of a small Jetson must live on


def sha256_of(descriptor: int) -> str:
    """SHA-256 of an open file, hex. Does not move the file's position: the demuxer reads the same descriptor."""
    digest, offset = hashlib.sha256(), 0
    while block := os.pread(descriptor, 1 << 20, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()


def read_clip(request: dict[str, Any], emit: Emit) -> None:
    """Answer one request: the clip's messages, or one ERROR."""
    try:
        with (
            open(os.open(request["path"], os.O_RDONLY), "rb") as file,  # a file that does not know its name
            ThreadPoolExecutor(1) as pool,  # hashes while we decode: hashlib lets go of the interpreter lock
        ):
            sha256 = pool.submit(sha256_of, file.fileno())
            clip = Clip(file, request, emit)
            with clip.container:
                clip.decode()
                footer = clip.footer()
            emit(Kind.FOOTER, footer | {"sha256": sha256.result()})
    except (BrokenPipeError, ProtocolError):  # the reader's end, not the clip's
        raise
    except ClipError as error:
        emit(Kind.ERROR, {"message": str(error)})
    except Exception as error:  # whatever a hostile file provokes ends this clip, not the next one
        problem = f"{type(error).__name__}: {error}"
        emit(Kind.ERROR, {"message": f"cannot be decoded ({problem}); convert it to mp4 and try again"})


def _limit_resources() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the reader, which ends this process
    memory = MEMORY_LIMIT
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system
        memory = min(memory, int(MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    limits = {
        "RLIMIT_DATA": memory,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
    }  # it writes to its pipe and nowhere else
    for name, limit in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system, or stricter already
            resource.setrlimit(getattr(resource, name), (limit, limit))


class Wire:
    """The child's end of the two pipes, and the slots, or None where there are none."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, slots: mmap.mmap | None) -> None:
        self._requests, self._answers, self._slots = requests, answers, slots
        self._filled = self._taken = 0  # payloads that were put into slots, and those that the reader took

    def next_request(self) -> dict[str, Any]:
        """Raises BrokenPipeError or ProtocolError."""
        while True:
            kind, fields, _ = receive(self._read_exactly)
            if kind is Kind.REQUEST:
                return fields
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
        data = self._requests.read(size)
        if len(data) < size:
            raise BrokenPipeError  # no EOFError: FFmpeg's own, over a clip, is one too
        return data


def main() -> None:
    """Serve until the reader closes the pipe."""
    _limit_resources()
    av.logging.set_level(None)
    slots = mmap.mmap(int(sys.argv[1]), SLOTS * SLOT_BYTES) if len(sys.argv) > 1 else None
    wire = Wire(os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb"), slots)
    os.dup2(2, 1)  # a stray print of a library must not land among the messages
    with contextlib.suppress(BrokenPipeError, ProtocolError):
        while True:
            read_clip(wire.next_request(), wire.emit)


if __name__ == "__main__":
    main()
