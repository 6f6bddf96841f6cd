"""Refuses ONNX models whose weights lie outside of their bytes, before ONNX Runtime sees them.

A tensor of an ONNX file may name another file as the place of its data. For a model that is loaded from memory, ONNX
Runtime looks for it in the working directory (1.31 says so in its errors), and one such name even stands for an address
in its own memory. A bundle's hashes cover the bytes alone, so nothing outside of them may count.

Only the structure of the protobuf message is walked, never the data: onnx.proto's field numbers are part of the format.
"""

from __future__ import annotations

from collections.abc import Iterator

from psamf_edge.errors import IntegrityError

MAX_DEPTH = 100  # protobuf's own limit of messages inside messages

# message to {field number: message in it}, for all ways from a model to a tensor
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # fields of a tensor
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; groups (3 and 4) are in no ONNX file


def refuse_external_data(model: bytes, name: str) -> None:
    """Raise IntegrityError if a tensor's data lies elsewhere, or the bytes are no protobuf message.

    Args:
        model: the serialised ModelProto.
        name: what to call it in errors.
    """
    try:
        tensor = _external_tensor(memoryview(model), "model", 0)
    except ValueError as error:
        raise IntegrityError(f"The model {name} is not an ONNX file ({error}): fetch it again.") from error
    if tensor is not None:
        raise IntegrityError(
            f"The model {name} keeps the data of its tensor {tensor[:80]!r} in another file, which is never opened: put"
            " all weights into the .onnx file (`onnx.save_model` does so by itself)."
        )


def _external_tensor(message: memoryview, kind: str, depth: int) -> str | None:
    """The name of the first tensor that says its data is elsewhere. Raises ValueError: not well-formed."""
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} messages inside one another")
    parts = _PARTS[kind]
    name, external = "", False
    for field, value in _fields(message):
        if kind == "tensor":
            if field == _NAME and not isinstance(value, int):
                name = bytes(value).decode("utf-8", "replace")
            external |= field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)
        elif field in parts and not isinstance(value, int):
            found = _external_tensor(value, parts[field], depth + 1)
            if found is not None:
                return found
    return name if external else None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: an int, or the bytes of what has a length. Raises ValueError."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        field, wire = tag >> 3, tag & 7
        if tag >> 32 or not field:
            raise ValueError(f"a field with the tag {tag}")
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            value, at = 0, at + (4 if wire == _FIXED32 else 8)  # floating point, of no use here
        elif wire == _BYTES:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ValueError(f"a field of the wire type {wire}")
        if at > len(message):
            raise ValueError("it ends in the middle of a field")
        yield field, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, low bits first, and where it ends. Raises ValueError."""
    if at < len(message) and message[at] < 0x80:  # nearly all are this short: the walk takes a third less time
        return message[at], at + 1
    value = 0
    for shift, byte in enumerate(message[at : at + 10]):  # 64 bits take at most ten bytes
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("it ends in the middle of a number" if len(message) - at < 10 else "a number of over 64 bits")
