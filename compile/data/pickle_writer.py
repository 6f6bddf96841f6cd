"""Writes plain data as a pickle that every NumPy since 1.10 reads, one value after another and never all in memory.

Python's own pickler under NumPy 2 names modules that NumPy 1 does not have, and MMSA is installed with NumPy 1. NumPy 2
still knows the names of NumPy 1, so those are written.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

_NAMES = {  # what arrays are made with, and where in the memo each stands
    "numpy.core.multiarray\n_reconstruct": 0,
    "numpy\nndarray": 1,
    "numpy\ndtype": 2,
}
BATCH = 1000  # items of a list between two marks, as Python's own pickler has it: a reader stacks no more


@dataclass(frozen=True)
class Padded:
    """Sequences (T_i, d) as one array (N, steps, d) float32, padded with zeros at the end, that is never made."""

    sequences: Sequence[np.ndarray]
    steps: int
    size: int


def write_pickle(file: BinaryIO, value: Any) -> None:
    """Write dicts with str keys, lists, str, int, float, bool, None, numeric arrays and `Padded`, in protocol 4.

    Raises:
        TypeError: the value holds something else.
    """
    file.write(b"\x80\x04")
    for name, index in _NAMES.items():  # noted, and taken off the stack again
        file.write(b"c" + name.encode() + b"\nq" + bytes([index]) + b"0")
    _write(file, value)
    file.write(b".")


def _write(file: BinaryIO, value: Any) -> None:
    match value:
        case None:
            file.write(b"N")
        case bool():
            file.write(b"\x88" if value else b"\x89")
        case int() if -(2**31) <= value < 2**31:
            file.write(b"J" + struct.pack("<i", value))
        case float():
            file.write(b"G" + struct.pack(">d", value))
        case str():
            encoded = value.encode("utf-8", "surrogatepass")
            file.write(b"X" + struct.pack("<I", len(encoded)) + encoded)
        case list():
            file.write(b"]")
            for start in range(0, len(value), BATCH):
                file.write(b"(")
                for item in value[start : start + BATCH]:
                    _write(file, item)
                file.write(b"e")
        case dict():
            file.write(b"}(")
            for key, item in value.items():
                _write(file, str(key))
                _write(file, item)
            file.write(b"u")
        case Padded():
            dtype, shape = np.dtype("<f4"), (len(value.sequences), value.steps, value.size)
            clip_bytes = value.steps * value.size * dtype.itemsize
            _write_array(file, shape, dtype)
            file.write(b"\x8e" + struct.pack("<Q", clip_bytes * len(value.sequences)))
            for sequence in value.sequences:
                file.write(np.ascontiguousarray(sequence, dtype).tobytes().ljust(clip_bytes, b"\0"))
            file.write(b"tb")
        case np.ndarray() if value.dtype.kind in "iuf":
            content = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
            _write_array(file, value.shape, value.dtype)
            file.write(b"\x8e" + struct.pack("<Q", len(content)) + content + b"tb")
        case _:
            raise TypeError(f"{type(value).__name__} cannot be written")


def _write_array(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """All of an array up to its bytes, after which its state has to be closed (`t`) and set (`b`)."""
    file.write(b"h\x00(h\x01K\x00\x85C\x01btR")  # _reconstruct(ndarray, (0,), b"b")
    file.write(b"(K\x01(")  # its state: version 1, the shape,
    for size in shape:
        _write(file, size)
    file.write(b"th\x02(")  # dtype("f4", False, True) with the state (3, "<", None, None, None, -1, -1, 0),
    _write(file, f"{dtype.kind}{dtype.itemsize}")
    file.write(b"\x89\x88tR(K\x03")
    _write(file, "<" if dtype.itemsize > 1 else "|")
    file.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    file.write(b"\x89")  # rows first, and the bytes
