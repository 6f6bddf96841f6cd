"""Reads a pickle as data: NumPy arrays and plain containers come out, and nothing that it names is ever called.

A pickle is a program. This is a machine of its own for the part of that language (protocols 2 to 5, of Python 2 and 3,
of NumPy 1 and 2) that arrays, numbers, strings, lists, tuples and dicts are written in. A name such as `numpy.dtype`
becomes a token that stands for itself; an array is built here from a checked dtype, a checked shape and bytes that are
in the file. Any other name or operation ends the read. Memory and time stay in proportion to the file.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from psamf_edge.errors import InputError

MAX_OPERATIONS = 5_000_000  # MMSA's largest file needs some 300 000; so many take 5 to 15 s and at most 0.5 GB
MAX_NAME = 200  # characters of a module or attribute: to find the line's end in junk
MAX_DIMENSIONS, MAX_DIMENSION = 4, 2**31 - 1  # of an array
MAX_INTEGER_BYTES = 16
VIEW_BYTES = 4096  # longer runs of bytes are not copied out of the file
MOST_COPIES = 16  # times its size may be copied out of a file: eight for the pointers of an object array of None alone
POINTER_BYTES = 8  # of each item of an object array

# NumPy 1 says numpy.core where NumPy 2 says numpy._core.
_NUMPY = {
    f"numpy.{core}.{name}": name
    for core in ("core", "_core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}
_ALLOWED = {
    **_NUMPY,
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",  # how Python 3 writes bytes in protocol 2
    "__builtin__.bytes": "bytes",  # ... when there are none
}
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,6}|O[48]")
_SCALARS = (str, bytes, int, float, np.generic, type(None))  # what an object array may hold


def read_pickle(path: Path) -> Any:
    """What the pickle holds: dict with str keys, list, tuple, str, bytes or memoryview, int, float, bool, None, NumPy
    scalars and arrays. The arrays are views of the file and cannot be written to.

    Raises:
        InputError: the file is no pickle, is cut short, asks for anything but data, or contradicts itself.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for its writer
            raise InputError(f"{path} is not a plain file; give a pickle file.")
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a pickle file.") from error
    except ValueError as error:  # mmap takes no file of 0 bytes
        raise InputError(f"{path} is empty; copy or make it again.") from error
    machine = _Machine(data)
    try:
        return machine.run()
    except _RefusedError as error:
        raise InputError(
            f"{path} was refused at byte {machine.at}: it asks for {error}, and only NumPy arrays and plain containers "
            "are read. Nothing of it was run. Ask its maker for such a file."
        ) from error
    except _DamagedError as error:
        raise InputError(f"{path} is damaged at byte {machine.at}: {error}. Copy or make it again.") from error
    except (IndexError, KeyError, struct.error, UnicodeError, MemoryError) as error:
        reason = type(error).__name__
        raise InputError(f"{path} is no pickle, or damaged at byte {machine.at} ({reason}). Make it again.") from error


class _RefusedError(Exception):
    """What the pickle asked for, to be put after "it asks for"."""


class _DamagedError(Exception):
    """What contradicts itself."""


@dataclass(frozen=True)
class _Name:
    """Stands for something that the pickle names; cannot be called, and has no state to set."""

    name: str


@dataclass(eq=False)
class _Unbuilt:
    """An array or dtype between REDUCE and BUILD. `memo`: where the machine noted it, to put the finished one there."""

    kind: str
    spec: str = ""
    memo: list[int] = field(default_factory=list)


class _Machine:
    """The stack machine. `at`: the next byte."""

    def __init__(self, data: memoryview) -> None:
        self._data, self.at = data, 0
        self._stack: list = []
        self._below: list[list] = []  # the stacks under each MARK
        self._memo: dict[int, Any] = {}
        self._may_copy = MOST_COPIES * len(data)  # bytes

    def run(self) -> Any:
        if self._data[:1] != b"\x80":
            raise _DamagedError("it does not begin as a pickle of protocol 2 or later does")
        for _ in range(MAX_OPERATIONS):
            code = self._take(1)[0]
            if code == ord("."):  # STOP
                return self._finished(self._stack.pop())
            name, action = _OPERATIONS.get(code, (f"byte {code:#04x}", None))
            if action is None:
                raise _RefusedError(f"the operation {name}")
            action(self)
        raise _RefusedError(f"more than {MAX_OPERATIONS} operations")

    def _finished(self, value: Any) -> Any:
        if isinstance(value, (_Name, _Unbuilt)):
            raise _RefusedError("an object that is no data")
        return value

    # What operations read from the file

    def _take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._data) - self.at:
            raise _DamagedError(f"{count} bytes should follow, and {len(self._data) - self.at} do: it is cut short")
        self.at += count
        return self._data[self.at - count : self.at]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        line, end, _ = bytes(self._data[self.at : self.at + MAX_NAME]).partition(b"\n")
        if not end:
            raise _DamagedError("a name has no end")
        self.at += len(line) + 1
        return line.decode()

    def _bytes(self, layout: str) -> bytes | memoryview:
        run = self._take(self._number(layout))
        return run if len(run) > VIEW_BYTES else bytes(run)

    def _text(self, layout: str) -> str:
        return str(self._take(self._number(layout)), "utf-8", "surrogatepass")

    def _long(self) -> int:
        count = self._number("<B")
        if count > MAX_INTEGER_BYTES:
            raise _RefusedError(f"an integer of {count} bytes")
        return int.from_bytes(self._take(count), "little", signed=True)

    # What operations do to the stack

    def _since_mark(self) -> list:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self, count: int) -> None:
        if count > len(self._stack):
            raise _DamagedError("a tuple lacks its items")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _extend(self, items: list) -> None:
        if not isinstance(self._stack[-1], list):
            raise _RefusedError("an append to something that is no list")
        self._stack[-1] += [self._finished(item) for item in items]

    def _update(self, items: list) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise _RefusedError("an item of something that is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_ascii(key, "a key")] = self._finished(value)

    def _memoize(self, index: int) -> None:
        if isinstance(self._stack[-1], _Unbuilt):
            self._stack[-1].memo.append(index)
        self._memo[index] = self._stack[-1]

    def _global(self, module: str, attribute: str) -> None:
        name = f"{module}.{attribute}"
        if name not in _ALLOWED:
            raise _RefusedError(f"the name {name[:MAX_NAME]}")
        self._stack.append(_Name(_ALLOWED[name]))

    def _stack_global(self) -> None:
        attribute, module = self._stack.pop(), self._stack.pop()
        self._global(_ascii(module, "a module"), _ascii(attribute, "an attribute"))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        match function, arguments:
            case _Name("multiarray._reconstruct"), (_Name("ndarray"), _, _):
                made = _Unbuilt("array")
            case _Name("dtype"), (spec, _, _):
                made = _Unbuilt("dtype", _ascii(spec, "a dtype"))
            case _Name("numeric._frombuffer"), (data, np.dtype() as dtype, shape, str() as order):
                made = self._array(shape, dtype, "F" if order == "F" else "C", data)
            case _Name("multiarray.scalar"), (np.dtype() as dtype, data):
                self._count_copy(dtype.itemsize)
                made = self._array((), dtype, "C", data)[()]
            case _Name("encode"), (str() as text, str() as codec) if codec == "latin1":
                self._count_copy(len(text))
                made = text.encode(codec)
            case _Name("bytes"), ():
                made = b""
            case _:
                name = function.name if isinstance(function, _Name) else type(function).__name__
                raise _RefusedError(f"a call of {name} with arguments that no array has")
        self._stack.append(made)

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack.pop()
        match target, state:
            case _Unbuilt("array"), (_, shape, np.dtype() as dtype, int() as fortran, data):
                made = self._array(shape, dtype, "F" if fortran else "C", data)
            case _Unbuilt("dtype", spec), (_, order, None, None, None, *_):
                made = _dtype(spec, _ascii(order, "a byte order"))
            case _:
                raise _RefusedError("the state of something that is no plain array")
        self._stack.append(made)
        self._memo.update(dict.fromkeys(target.memo, made))
        target.memo.clear()  # it may be built again, and then must not cost as much

    def _array(self, shape: Any, dtype: np.dtype, order: str, data: Any) -> np.ndarray:
        """An array whose shape, dtype and content agree, of dtype object only with plain scalars in it."""
        sizes = shape if isinstance(shape, tuple) else (None,)
        if len(sizes) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n <= MAX_DIMENSION for n in sizes):
            raise _RefusedError(f"an array whose shape is not up to {MAX_DIMENSIONS} sizes")  # never shown: it may nest
        count = math.prod(sizes)
        if dtype.hasobject:
            self._count_copy(POINTER_BYTES * len(data) if isinstance(data, list) else 0)
            return _object_array(sizes, order, count, data)
        if not isinstance(data, (bytes, memoryview)):
            raise _RefusedError(f"an array out of {type(data).__name__}")
        if len(data) != count * dtype.itemsize:
            wanted = count * dtype.itemsize
            raise _DamagedError(
                f"an array of shape {sizes} and dtype {dtype} takes {wanted} bytes, and has {len(data)}"
            )
        if dtype.kind == "U":
            self._count_copy(len(data))  # all of them are looked at
            if (np.frombuffer(data, f"{dtype.byteorder}u4") > sys.maxunicode).any():
                raise _DamagedError("an array of strings has code points that do not exist")  # NumPy would meet them
        return (np.frombuffer(data, dtype) if count else np.empty(0, dtype)).reshape(sizes, order=order)

    def _count_copy(self, size: int) -> None:
        """What an operation copies may come from the memo, and be copied again and again for a few bytes each."""
        self._may_copy -= size
        if self._may_copy < 0:
            raise _RefusedError(f"copies of more than {MOST_COPIES} times its size")


def _ascii(value: Any, what: str) -> str:
    """A str of a Python 2 pickle comes as bytes."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if not isinstance(value, str):
        raise _RefusedError(f"{what} that is no string but {type(value).__name__}")
    return value


def _dtype(spec: str, order: str) -> np.dtype:
    if not _DTYPE.fullmatch(spec) or order not in ("<", ">", "|", "="):
        raise _RefusedError(f"an array of dtype {order + spec!r}")
    return np.dtype(object) if spec[0] == "O" else np.dtype(order + spec)


def _object_array(sizes: tuple[int, ...], order: str, count: int, data: Any) -> np.ndarray:
    if not isinstance(data, list) or not all(isinstance(item, _SCALARS) for item in data):
        raise _RefusedError("an object array that holds more than strings and numbers")
    if len(data) != count:
        raise _DamagedError(f"an array of shape {sizes} has {len(data)} items")
    array = np.empty(count, object)
    array[:] = data
    return array.reshape(sizes, order=order)


def _pushes(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        pushed = value(machine)  # first: it may put another stack in place
        machine._stack.append(pushed)

    return action


_ACTIONS: dict[str, Callable[[_Machine], Any]] = {  # operations by their names in pickletools; all others are refused
    "PROTO": lambda m: m._take(1),
    "FRAME": lambda m: m._take(8),  # a hint for reading ahead
    "NONE": _pushes(lambda m: None),
    "NEWTRUE": _pushes(lambda m: True),
    "NEWFALSE": _pushes(lambda m: False),
    "BININT": _pushes(lambda m: m._number("<i")),
    "BININT1": _pushes(lambda m: m._number("<B")),
    "BININT2": _pushes(lambda m: m._number("<H")),
    "LONG1": _pushes(lambda m: m._long()),
    "BINFLOAT": _pushes(lambda m: m._number(">d")),
    "SHORT_BINSTRING": _pushes(lambda m: m._bytes("<B")),
    "BINSTRING": _pushes(lambda m: m._bytes("<i")),
    "SHORT_BINBYTES": _pushes(lambda m: m._bytes("<B")),
    "BINBYTES": _pushes(lambda m: m._bytes("<I")),
    "BINBYTES8": _pushes(lambda m: m._bytes("<Q")),
    "BYTEARRAY8": _pushes(lambda m: m._bytes("<Q")),
    "SHORT_BINUNICODE": _pushes(lambda m: m._text("<B")),
    "BINUNICODE": _pushes(lambda m: m._text("<I")),
    "BINUNICODE8": _pushes(lambda m: m._text("<Q")),
    "EMPTY_TUPLE": _pushes(lambda m: ()),
    "EMPTY_LIST": _pushes(lambda m: []),
    "EMPTY_DICT": _pushes(lambda m: {}),
    "TUPLE1": lambda m: m._tuple(1),
    "TUPLE2": lambda m: m._tuple(2),
    "TUPLE3": lambda m: m._tuple(3),
    "TUPLE": _pushes(lambda m: tuple(m._since_mark())),
    "MARK": lambda m: m._mark(),
    "POP": lambda m: m._stack.pop(),
    "APPEND": lambda m: m._extend([m._stack.pop()]),
    "APPENDS": lambda m: m._extend(m._since_mark()),
    "SETITEM": lambda m: m._update([m._stack.pop(-2), m._stack.pop()]),
    "SETITEMS": lambda m: m._update(m._since_mark()),
    "MEMOIZE": lambda m: m._memoize(len(m._memo)),
    "BINPUT": lambda m: m._memoize(m._number("<B")),
    "LONG_BINPUT": lambda m: m._memoize(m._number("<I")),
    "BINGET": _pushes(lambda m: m._memo[m._number("<B")]),
    "LONG_BINGET": _pushes(lambda m: m._memo[m._number("<I")]),
    "GLOBAL": lambda m: m._global(m._line(), m._line()),
    "STACK_GLOBAL": lambda m: m._stack_global(),
    "REDUCE": lambda m: m._reduce(),
    "BUILD": lambda m: m._build(),
}
_OPERATIONS = {ord(op.code): (op.name, _ACTIONS.get(op.name)) for op in pickletools.opcodes}
