"""The wire between the reader and its decoder child: small, typed, and safe to read from a child that was taken over.

Requests go over a Unix socket, which can carry a descriptor: the child is given the clip open, since it can open
nothing. Answers come over a pipe. A message is a prefix (kind, length of the fields, length of the payload), the fields
as JSON, and the payload as bytes.

To the child:

    REQUEST  video, audio, frame_rate, max_side, limits; the clip's descriptor comes with its first byte
    TAKEN    the payload that has lain longest in a slot was read: the slot is free

From the child, for each request:

    HEADER   the fields of events.ClipHeader
    FRAME    time_ms, width, height, stride, rotation
             payload: height rows of `stride` bytes, RGB24 in the first 3 * width of each; not yet rotated
             slot, if there: the payload does not follow, but lies at the start of this slot (see slots)
    AUDIO    start_ms
             payload: float32 samples in native byte order
    CAPTION  the fields of events.Caption
    FOOTER   the fields of events.ClipFooter
    ERROR    message                                    the clip cannot be used; the rest of a sentence after its name

Fields are never trusted: lengths are bounded here, and the reader checks each field against the payload.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

SAMPLE_RATE = 16_000  # Hz of all audio on the wire: what speech models and the acoustic features are made for
PREFIX = struct.Struct("<BII")
MAX_FIELDS_BYTES = 1 << 20  # a caption is the largest JSON there is; a megabyte of subtitle text is no subtitle
MAX_PAYLOAD_BYTES = 1 << 28  # an 8192 x 8192 RGB frame, larger than any that `max_side` can reasonably ask for


class Kind(IntEnum):
    REQUEST = 1
    HEADER = 2
    FRAME = 3
    AUDIO = 4
    CAPTION = 5
    FOOTER = 6
    ERROR = 7
    TAKEN = 8


class ProtocolError(Exception):
    """The bytes on the pipe are not a message."""


def pack(kind: Kind, fields: dict[str, Any], payload_bytes: int = 0) -> bytes:
    """Everything of a message up to its payload."""
    text = json.dumps(fields).encode("ascii")
    return PREFIX.pack(kind, len(text), payload_bytes) + text


def receive(read_exactly: Callable[[int], bytes]) -> tuple[Kind, dict[str, Any], int]:
    """Read a message up to its payload, whose length in bytes is the last item returned.

    Raises:
        ProtocolError: the lengths are out of bounds, the kind is unknown, or the fields are not a JSON object.
    """
    kind, fields_bytes, payload_bytes = PREFIX.unpack(read_exactly(PREFIX.size))
    if fields_bytes > MAX_FIELDS_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"a message of {fields_bytes} + {payload_bytes} bytes")
    try:
        kind, fields = Kind(kind), json.loads(read_exactly(fields_bytes))
    except (ValueError, RecursionError) as error:  # the latter from lists in lists, a hundred thousand deep
        raise ProtocolError(str(error)) from error
    if not isinstance(fields, dict):
        raise ProtocolError("fields that are not a JSON object")
    return kind, fields, payload_bytes
