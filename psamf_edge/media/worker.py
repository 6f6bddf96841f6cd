"""The decoder child: `python -m psamf_edge.media.worker`. Reads requests on stdin, answers on stdout (see protocol).

Media files are hostile until proven otherwise, so that only this process, which has limits and can be killed, lets
FFmpeg touch them: PyAV is imported by it alone (here, in decode and in tracks). It imports no NumPy, which halves its
start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av

from psamf_edge.media.decode import Clip, ClipError
from psamf_edge.media.protocol import Kind, ProtocolError, pack, receive
from psamf_edge.media.tracks import Emit

MEMORY_LIMIT = 4 << 30  # bytes of private data: an 8K H.264 stream with its reference frames needs under 2 GiB


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
    except BrokenPipeError:
        raise
    except ClipError as error:
        emit(Kind.ERROR, {"message": str(error)})
    except Exception as error:  # whatever a hostile file provokes ends this clip, not the next one
        problem = f"{type(error).__name__}: {error}"
        emit(Kind.ERROR, {"message": f"cannot be decoded ({problem}); convert it to mp4 and try again"})


def _limit_resources() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the reader, which ends this process
    limits = {
        "RLIMIT_DATA": MEMORY_LIMIT,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
    }  # it writes to its pipe and nowhere else
    for name, limit in limits.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not on this system, or stricter already
            resource.setrlimit(getattr(resource, name), (limit, limit))


def main() -> None:
    """Serve until the reader closes the pipe."""
    _limit_resources()
    av.logging.set_level(None)
    requests, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print of a library must not land among the messages

    def read_exactly(size: int) -> bytes:
        data = requests.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def emit(kind: Kind, fields: dict[str, Any], payload: Any = b"") -> None:
        view = memoryview(payload).cast("B")
        answers.write(pack(kind, fields, view.nbytes))
        answers.write(view)
        answers.flush()

    with contextlib.suppress(EOFError, BrokenPipeError, ProtocolError):
        while True:
            read_clip(receive(read_exactly)[1], emit)


if __name__ == "__main__":
    main()
