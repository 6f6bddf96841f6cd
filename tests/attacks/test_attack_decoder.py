"""A decoder that was taken over by a clip, and clips without end: what the reader must not let through.

tests/test_media_hostile.py holds the lies that are found.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from psamf_edge.errors import InputError
from psamf_edge.media import protocol
from psamf_edge.media.answers import Allowance, to_event
from psamf_edge.media.protocol import Kind
from psamf_edge.media.reader import MediaReader
from tests.attacks.media import png, png_chunk, wav, zeros


def test_fields_inside_fields_without_end():
    text = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    message = protocol.PREFIX.pack(Kind.FOOTER, len(text), 0) + text
    with pytest.raises(protocol.ProtocolError):
        protocol.receive(io.BytesIO(message).read)


@pytest.mark.parametrize(
    ("kind", "fields", "size"),
    [
        (Kind.AUDIO, {"start_ms": float("inf")}, 8),
        (Kind.FRAME, {"time_ms": float("inf"), "rotation": 0, "width": 4, "height": 4, "stride": 12}, 48),
    ],
    ids=["sound", "frame"],
)
def test_times_that_are_infinite(kind, fields, size):
    with pytest.raises((KeyError, TypeError, ValueError)):
        to_event(kind, fields, np.zeros(size, np.uint8), [], 60)


@pytest.mark.parametrize("start_ms", [-5, 60_001, 10**15])
def test_times_outside_of_any_clip(start_ms):
    with pytest.raises(ValueError, match="start_ms"):
        to_event(Kind.AUDIO, {"start_ms": start_ms}, np.zeros(8, np.uint8), [], 60)


def test_answers_without_end():
    """More than a clip of two seconds can hold; the sound alone would fill the memory of the reader."""
    audio, second = {"start_ms": 0}, 4 * 16_000
    for kind, fields, size, most in [
        (Kind.FRAME, {}, 0, 2 * 10 + 1),
        (Kind.AUDIO, audio, second, 62),
        (Kind.CAPTION, {"text": "x" * (1 << 20)}, 0, 15),
        (Kind.HEADER, {}, 0, 1),
        (Kind.TAKEN, {}, 0, 0),
    ]:
        allowance = Allowance(2, 10.0)
        for _ in range(most):
            allowance.spend(kind, size, fields)
        with pytest.raises(ValueError, match=f"unexpected {kind.name}"):
            allowance.spend(kind, size, fields)


def test_a_file_without_end(tmp_path):
    path = tmp_path / "endless.wav"
    path.write_bytes(wav(16_000, 1, 2**32 - 1, b""))
    os.truncate(path, 1 << 40)
    with MediaReader() as reader, pytest.raises(InputError, match="bytes"):
        list(reader.read(path, deadline_s=600))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process's memory: Linux alone can")
def test_a_comment_that_inflates_beyond_the_limit(tmp_path):
    """The limit is 4 GiB or half of the machine; a lower one is set here, so that the test need not inflate as much."""
    bomb, honest = tmp_path / "text.png", tmp_path / "honest.wav"
    bomb.write_bytes(png(1, 1, b"x\x9cc`\0\0\0\x02\0\x01", png_chunk(b"zTXt", b"Comment\0\0" + zeros(1 << 29))))
    honest.write_bytes(wav(16_000, 1, 32_000, bytes(32_000)))
    with MediaReader() as reader:
        list(reader.read(honest))  # the child has set its own limits by now
        resource.prlimit(reader._child._process.pid, resource.RLIMIT_DATA, (256 << 20, 256 << 20))
        status = Path(f"/proc/{reader._child._process.pid}/status")
        with contextlib.suppress(InputError):  # the comment may be left out, or the file given up
            list(reader.read(bomb))
        if status.exists():
            peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            assert 1024 * int(peak.split()[1]) < 512 << 20  # the limit, and code that several processes share
        assert list(reader.read(honest))
