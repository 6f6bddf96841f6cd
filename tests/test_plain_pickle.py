"""Pickles as data: what Python's own pickler writes is read alike, and whatever else a pickle asks for is refused."""

from __future__ import annotations

import functools
import io
import operator
import os
import pickle
import random
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from psamf_edge.compile.data.pickle_writer import Padded, write_pickle
from psamf_edge.compile.data.plain_pickle import read_pickle
from psamf_edge.errors import InputError

SHARED = np.arange(6, dtype=np.float32)
PLAIN = {
    "f4": SHARED,
    "same": SHARED,
    "f8": np.linspace(0, 1, 1000).reshape(10, 10, 10),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(10)[::3],
    "big endian": np.arange(3, dtype=">i4"),
    "bool": np.array([True, False]),
    "half": np.array([1, 2], np.float16),
    "no rows": np.zeros((0, 3)),
    "scalar array": np.array(2.5),
    "text": np.array(["ab", "ü"]),
    "bytes array": np.array([b"ab", b"c"]),
    "objects": np.array(["x", None, 1.5, np.float32(2)], object).reshape(2, 2),
    "scalar": np.float64(2),
    "text scalar": np.str_("ü"),
    "strings": ["", "ü\ud800", "x" * 300],
    "numbers": [0, -1, 255, 256, 65536, -(2**31), 2**40, -(2**63), 2**100, 0.5, True, None],
    "nested": {"a": ({}, [], (1, (2,)), b"", b"\x00\xff")},
    "many": list(range(2500)),
}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def same(got, wanted) -> bool:
    if isinstance(wanted, np.ndarray):
        return got.dtype == wanted.dtype and got.shape == wanted.shape and np.array_equal(got, wanted)
    if isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(same(got[key], wanted[key]) for key in wanted)
    return type(got) is type(wanted) and got == wanted


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
class TestPlain:
    def test_python_and_we_read_the_same(self, tmp_path, protocol):
        got = read_pickle(write(tmp_path / "p", pickle.dumps(PLAIN, protocol)))
        assert same(got, PLAIN)
        assert got["f4"] is got["same"]

    @pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="every pickle of NumPy 1 has them")
    def test_names_of_numpy_1(self, tmp_path, protocol):
        new = pickle.dumps({"a": PLAIN["f8"], "s": np.float32(1)}, protocol)
        assert b"numpy._core" in new
        old = new.replace(b"numpy._core.", b"numpy.core.")
        for module in (b"numpy.core.multiarray", b"numpy.core.numeric"):  # protocol 4 says how long the name is
            old = old.replace(bytes([len(module) + 1]) + module, bytes([len(module)]) + module)
        assert old != new
        got = read_pickle(write(tmp_path / "p", old))
        assert np.array_equal(got["a"], PLAIN["f8"])
        assert got["s"] == 1

    def test_every_cut_is_an_error(self, tmp_path, protocol):
        whole = pickle.dumps({"a": np.arange(5), "b": ["x", 1.5]}, protocol)
        for size in range(len(whole)):
            with pytest.raises(InputError, match=r"damaged at byte|is empty|refused at byte"):
                read_pickle(write(tmp_path / "p", whole[:size]))

    def test_random_damage_is_an_error_or_other_data(self, tmp_path, protocol):
        whole, chance = pickle.dumps(PLAIN | {"many": [1, 2]}, protocol), random.Random(protocol)
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(chance.choice((1, 3, 30))):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            with suppress(InputError):
                read_pickle(write(tmp_path / "p", bytes(damaged)))


def python2(value) -> bytes:
    """The body of a protocol 2 pickle as Python 2 wrote it: each str as bytes, without memo."""
    match value:
        case dict():
            return b"}(" + b"".join(python2(part) for item in value.items() for part in item) + b"u"
        case list():
            return b"](" + b"".join(map(python2, value)) + b"e"
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value if len(value) > 255 else b"U%c" % len(value) + value
        case str():
            return python2(value.encode())
        case int():
            return b"J" + struct.pack("<i", value)
        case np.ndarray():
            spec = value.dtype.str
            dtype = b"cnumpy\ndtype\n(" + python2(spec[1:]) + b"K\x00K\x01tR(K\x03" + python2(spec[0])
            dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            shape = b"(" + b"".join(map(python2, value.shape)) + b"t"
            begin = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
            return begin + b"(K\x01" + shape + dtype + b"\x89" + python2(value.tobytes()) + b"tb"
    raise TypeError


def test_a_pickle_of_python_2(tmp_path):
    value = {"train": {"audio": np.arange(600.0).reshape(2, 3, 100), "id": ["a", "ü"], "n": 7}}
    content = b"\x80\x02" + python2(value) + b"."
    assert np.array_equal(pickle.loads(content, encoding="latin1")["train"]["audio"], value["train"]["audio"])
    got = read_pickle(write(tmp_path / "p", content))["train"]
    assert np.array_equal(got["audio"], value["train"]["audio"])
    assert got["id"] == [b"a", "ü".encode()]
    assert got["n"] == 7


class Reduced:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def array_with(member) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = member
    return array


DTYPE = (
    b"cnumpy\ndtype\n(%sK\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"  # of a U string, its spec
)
HOSTILE = {  # name: what is pickled, given a shell command; and what of it the error must name
    "os.system": (lambda command: Reduced(os.system, command), "system"),
    "subprocess": (lambda command: Reduced(subprocess.call, command, -1, None, None, None, None), r"\.call"),
    "eval": (lambda command: Reduced(eval, f"__import__('os').system({command!r})"), "eval"),
    "exec": (lambda command: Reduced(exec, f"import os; os.system({command!r})"), "exec"),
    "import": (lambda command: Reduced(__import__, "antigravity"), "__import__"),
    "getattr": (lambda command: Reduced(getattr, [], "append"), "getattr"),
    "partial": (lambda command: Reduced(functools.partial(os.system, command)), "functools.partial"),
    "methodcaller": (lambda command: operator.methodcaller("system", command), "methodcaller"),
    "open": (lambda command: Reduced(open, command.split()[-1], "w"), "open"),
    "numpy.load": (lambda command: Reduced(np.load, "/etc/passwd"), "numpy.load"),
    "numpy.fromfile": (lambda command: Reduced(np.fromfile, "/etc/passwd"), "fromfile"),
    "numpy.memmap": (lambda command: Reduced(np.memmap, command.split()[-1], "f4", "w+", 0, (2,)), "memmap"),
    "in an object array": (lambda command: array_with(Reduced(os.system, command)), "system"),
    "list in an object array": (lambda command: array_with([1]), "object array"),
    "as a dict's key": (lambda command: {Reduced(os.system, command): 1}, "system"),
    "class with a state": (lambda command: Reduced(Exception, "x", state={"args": ()}), "Exception"),
    "set": (lambda command: {1}, "set|SET"),
    "complex dtype": (lambda command: np.zeros(2, np.complex64), "c8"),
    "record dtype": (lambda command: np.zeros(2, "f4,i4"), "V8|state"),
    "date dtype": (lambda command: np.zeros(2, "M8[s]"), "M8"),
    "a number for a key": (lambda command: {1: 2}, "key"),
}


class TestHostile:
    @pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
    @pytest.mark.parametrize("name", HOSTILE)
    def test_nothing_runs(self, tmp_path, name, protocol):
        make, named = HOSTILE[name]
        canary = tmp_path / "canary"
        content = pickle.dumps({"train": make(f"touch {canary}")}, protocol)
        with pytest.raises(InputError, match=named if protocol >= 2 else "protocol 2 or later") as caught:
            read_pickle(write(tmp_path / "p", content))
        assert "Nothing of it was run" in str(caught.value) or protocol < 2
        assert not canary.exists()

    def test_the_canary_would_sing(self, tmp_path):
        pickle.loads(pickle.dumps(Reduced(os.system, f"touch {tmp_path / 'canary'}")))
        assert (tmp_path / "canary").exists()

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            (b"(U\x04trueios\nsystem\n.", "operation INST"),
            (b"(cos\nsystem\nU\x04trueo.", "name os.system"),
            (b"(cnumpy\nndarray\nU\x04trueo.", "operation OBJ"),
            (b"cnumpy\nndarray\nK\x01\x85\x81.", "operation NEWOBJ"),
            (b"cnumpy\nndarray\nK\x01\x85}\x92.", "operation NEWOBJ_EX"),
            (b"Pabc\n.", "operation PERSID"),
            (b"K\x01Q.", "operation BINPERSID"),
            (b"\x82\x01.", "operation EXT1"),
            (b"\x97.", "operation NEXT_BUFFER"),
            (b"K\x012.", "operation DUP"),
            (b"\xff.", "byte 0xff"),
            (b"cnumpy\nndarray\n}U\x01aU\x01bsb.", "state of something"),
            (b"cnumpy\ndtype\n}U\x0c__setstate__cnumpy\ndtype\nsb.", "object that is no data"),
            (b"]}U\x01aK\x01sb.", "state of something"),
            (b"cnumpy\nndarray\nK\x01\x85R.", "call of ndarray"),
            (b"cnumpy\ndtype\nU\x02f4\x85R.", "call of dtype"),
            (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\x00\x85U\x01btR.", "call of multiarray"),
            (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.", "call of encode"),
            (b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.", "call of bytes"),
            (b"c_codecs\ndecode\n.", "name _codecs.decode"),
            (b"U\x05numpyU\x12ndarray.__reduce__\x93.", "name numpy.ndarray.__reduce__"),
            (b"cnumpy\nndarray\n.", "object that is no data"),
            (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR.", "object that is no data"),
            (b"]cnumpy\nndarray\na.", "object that is no data"),
            (b"\x8b\x00\x00\x00\x7f.", "operation LONG4"),
            (b"\x8a\xff" + b"\xff" * 255 + b".", "integer of 255 bytes"),
            (b"K\x01K\x02a.", "append to something"),
            (b"K\x01K\x02K\x03s.", "item of something"),
        ],
    )
    def test_operations_that_data_does_not_need(self, tmp_path, body, named):
        with pytest.raises(InputError, match=named):
            read_pickle(write(tmp_path / "p", b"\x80\x02" + body))

    @pytest.mark.parametrize(
        "body",
        [
            b"h\x07.",  # a memo that was never written
            b"a.", b"\x85.", b"R.", b"b.", b"t.", b"u.", b".", b"q\x00.",  # an empty stack
            b"c" + b"x" * 5000,
            b"X\xff\xff\xff\xffabc.", b"\x8e" + b"\xff" * 8 + b".", b"T\xff\xff\xff\xffabc.",  # more than there is
            b"X\x01\x00\x00\x00\xff.",  # no UTF-8
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_damaged(self, tmp_path, body):
        with pytest.raises(InputError, match="damaged at byte"):
            read_pickle(write(tmp_path / "p", b"\x80\x02" + body))

    @pytest.mark.parametrize("shape", [(2**31 - 1,), (2**31 - 1, 2**31 - 1), (3,), (0,), (2, 2**30, 5)])
    @pytest.mark.parametrize("dtype", ["f8", "U1000000", "O8"])
    def test_shapes_that_lie_take_no_memory(self, tmp_path, shape, dtype):
        array = python2(np.zeros(2)).replace(b"(J\x02\x00\x00\x00t", b"(" + b"".join(map(python2, shape)) + b"t")
        array = array.replace(python2("f8"), python2(dtype))
        with pytest.raises(InputError, match=r"and has 16|object array"):
            read_pickle(write(tmp_path / "p", b"\x80\x02" + array + b"."))

    def test_far_places_in_the_memo_take_no_memory(self, tmp_path):
        assert read_pickle(write(tmp_path / "p", b"\x80\x02Nr\xff\xff\xff\xffj\xff\xff\xff\xff\x86.")) == (None, None)

    def test_doubled_tuples_take_no_time(self, tmp_path):
        start = time.perf_counter()
        doubled = b"K\x01" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(100))  # 2**100 numbers, if it were shown
        shape = python2(np.zeros(2)).replace(b"(J\x02\x00\x00\x00t", doubled)
        for content in (doubled, b"}" + doubled + b"Ns", shape):
            with suppress(InputError):
                read_pickle(write(tmp_path / "p", b"\x80\x02" + content + b"."))
        assert time.perf_counter() - start < 5  # it takes a millisecond; this would take for ever

    def test_deep_nesting_and_loops(self, tmp_path):
        read_pickle(write(tmp_path / "p", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."))
        loop = read_pickle(write(tmp_path / "p", b"\x80\x02]q\x00h\x00a."))
        assert loop[0] is loop

    @pytest.mark.parametrize(
        ("function", "arguments"),
        [
            ("_codecs\nencode", b"X\x10\x27\x00\x00" + b"x" * 10_000 + b"X\x06\x00\x00\x00latin1\x86"),
            ("numpy.core.multiarray\nscalar", DTYPE % b"U\x05S4096" + python2(b"x" * 4096) + b"\x86"),
            (
                "numpy.core.numeric\n_frombuffer",
                b"(" + python2(b"x\0\0\0" * 1024) + DTYPE % b"U\x05U1024" + b"K\x01\x85X\x01\x00\x00\x00Ct",
            ),
            (
                "numpy.core.numeric\n_frombuffer",
                b"(](" + b"N" * 4096 + b"e" + DTYPE % b"U\x02O8" + b"M\x00\x10\x85X\x01\x00\x00\x00Ct",
            ),
        ],
        ids=["encode", "scalar", "strings", "objects"],
    )
    def test_what_is_copied_stays_in_proportion_to_the_file(self, tmp_path, function, arguments):
        noted = b"\x80\x02c" + function.encode() + b"\nq\x000" + arguments
        once = noted + b"q\x010](" + b"h\x00h\x01Re."
        assert len(read_pickle(write(tmp_path / "p", once))) == 1
        with pytest.raises(InputError, match="copies of more than 16 times its size"):
            read_pickle(write(tmp_path / "p", noted + b"q\x010](" + b"h\x00h\x01R" * 1000 + b"e."))

    def test_places_in_the_memo_are_filled_once(self, tmp_path):
        array = python2(np.zeros(2))
        begin, state = array[: array.index(b"R") + 1], array[array.index(b"R") + 1 : -1]
        many = b"q\x01" * 100_000 + b"h\x01" * 20_000  # each of these arrays to be built once more, under all the notes
        content = state + b"q\x000" + begin + many + b"h\x00b0" * 20_000 + b"h\x00b."
        assert np.array_equal(read_pickle(write(tmp_path / "p", b"\x80\x02" + content)), np.zeros(2))

    def test_an_order_that_is_no_number(self, tmp_path):
        array = python2(np.zeros(2))
        for other in (b"N", python2(np.zeros(2))):  # NumPy does not say whether an array is true
            changed = array.replace(b"tb\x89", b"tb" + other)
            with pytest.raises(InputError, match="state of something that is no plain array"):
                read_pickle(write(tmp_path / "p", b"\x80\x02" + changed + b"."))

    def test_too_many_operations(self, tmp_path, monkeypatch):
        monkeypatch.setattr("psamf_edge.compile.data.plain_pickle.MAX_OPERATIONS", 100)
        with pytest.raises(InputError, match="more than 100 operations"):
            read_pickle(write(tmp_path / "p", b"\x80\x02" + b"]" * 101 + b"."))

    def test_files_that_are_none(self, tmp_path):
        for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "not a plain file")):
            with pytest.raises(InputError, match=message):
                read_pickle(path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="not a plain file"):
            read_pickle(tmp_path / "pipe")
        for content in (b"", b"\x80", b"PK\x03\x04", b"id,text\n", b"\x80\x09."):
            with pytest.raises(InputError):
                read_pickle(write(tmp_path / "p", content))


class TestWriting:
    def test_python_reads_what_was_written(self, tmp_path):
        ragged = [np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32), np.full((4, 3), 2, np.float32)]
        value = {
            "ü": {"floats": np.arange(6.0).reshape(2, 3), "ids": np.arange(4), "byte": np.array([1], np.uint8)},
            "list": ["ü\ud800", 1, -7, 2.5, None, True, False, []],
            "long": list(range(2500)),
            "padded": Padded(ragged, 4, 3),
        }
        file = io.BytesIO()
        write_pickle(file, value)
        padded = np.zeros((3, 4, 3), np.float32)
        padded[0, :2], padded[2] = 1, 2
        value["padded"] = padded
        assert same(pickle.loads(file.getvalue()), value)
        assert same(read_pickle(write(tmp_path / "p", file.getvalue())), value)
        assert b"numpy._core" not in file.getvalue()  # NumPy 1 does not know it

    @pytest.mark.parametrize("value", [{1}, 2**31, b"x", np.array(["x"]), np.zeros(2, complex), object()])
    def test_what_cannot_be_written(self, value):
        with pytest.raises(TypeError, match="cannot be written"):
            write_pickle(io.BytesIO(), {"a": value})
