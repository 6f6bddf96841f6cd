"""What the child answers, checked: types, sizes and times of each message, and how much a clip can hold at all."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np

from psamf_edge.media.events import AudioChunk, Caption, ClipFooter, ClipHeader, Event, Frame
from psamf_edge.media.protocol import SAMPLE_RATE, Kind

SAMPLE_BYTES = np.dtype(np.float32).itemsize
SPARE_S = 60  # of sound: holes are filled up, and a last packet may reach beyond the end
MAX_CAPTION_CHARACTERS = 1 << 24  # of all captions together: a whole film's take 100 KB


class Allowance:
    """How much a clip of so many seconds can hold at all: a child that was taken over could answer without end."""

    def __init__(self, seconds: int, frame_rate: float) -> None:
        self._left = {
            Kind.HEADER: 1,
            Kind.FRAME: frame_rate * seconds + 1,
            Kind.AUDIO: SAMPLE_BYTES * SAMPLE_RATE * (seconds + SPARE_S),
            Kind.CAPTION: MAX_CAPTION_CHARACTERS,
            Kind.FOOTER: 1,
        }

    def spend(self, kind: Kind, payload_bytes: int, fields: dict[str, Any]) -> None:
        """Count one message. Raises ValueError once there are more than can be."""
        amount = {Kind.AUDIO: payload_bytes, Kind.CAPTION: 1 + len(str(fields.get("text")))}.get(kind, 1)
        self._left[kind] = self._left.get(kind, 0) - amount
        if self._left[kind] < 0:
            raise ValueError(f"unexpected {kind.name}")


def to_event(kind: Kind, fields: dict[str, Any], payload: np.ndarray, warnings: list[str], seconds: int) -> Event:
    """Build and check one event; whatever does not fit in a clip of so many seconds raises KeyError, TypeError or
    ValueError.
    """
    if kind is Kind.FRAME:
        height, width, stride = fields["height"], fields["width"], fields["stride"]
        if not (type(height) is type(width) is int and height > 0 and width > 0):
            raise ValueError("a frame without a size")
        rows = payload.reshape(height, stride)[:, : 3 * width]  # (H, 3 W)
        image = np.rot90(rows.reshape(height, width, 3), fields["rotation"] // 90)  # (H, W, 3)
        return Frame(_time(fields, "time_ms", seconds), np.ascontiguousarray(image))
    if kind is Kind.AUDIO:
        samples = payload.view(np.float32)  # (N,)
        if not np.isfinite(samples).all():
            samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
            warnings[:] = ["Some audio samples were not numbers and count as silence."]
        return AudioChunk(_time(fields, "start_ms", seconds), samples)
    if kind is Kind.FOOTER:
        return _plain(ClipFooter, fields | {"warnings": fields["warnings"] + warnings})
    if kind in (Kind.HEADER, Kind.CAPTION):
        return _plain(ClipHeader if kind is Kind.HEADER else Caption, fields)
    raise ValueError(f"unexpected {kind.name}")


def _time(fields: dict[str, Any], name: str, seconds: int) -> int:
    """A time inside a clip, in ms."""
    value = fields[name]
    if type(value) is not int or not 0 <= value <= 1000 * seconds:
        raise ValueError(f"{name} is {value!r}")
    return value


def _plain(kind: type, values: dict[str, Any]) -> Any:
    """The dataclass `kind` from JSON, once each value has the type of its field."""
    for field in dataclass_fields(kind):
        if type(values[field.name]).__name__ != field.type.partition("[")[0]:
            raise TypeError(f"{field.name} is {values[field.name]!r}")
    return kind(**values)
