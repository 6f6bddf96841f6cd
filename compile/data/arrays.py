"""Named arrays in one .npz, which NumPy reads too: no pickle, no compression, written whole or not at all."""

from __future__ import annotations

import json
import math
import struct
import tokenize
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from psamf_edge.compile.files import atomic
from psamf_edge.errors import InputError

# What reading a damaged or hostile .npz raises: the zip archive; the header of an .npy, which NumPy hands to Python's
# tokenizer where it is no literal; and the keys in it, which NumPy sorts.
DAMAGED = (
    zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error, tokenize.TokenError,
)  # fmt: skip
Rows = Sequence[np.ndarray]  # arrays (T_i, ...) that are stored as one, (sum T_i, ...)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray | Rows]) -> None:
    """Write arrays under their names; a list of arrays goes in one after another. Equal arrays give equal bytes."""
    with atomic(path) as new, zipfile.ZipFile(new, "w") as archive:
        for name, array in arrays.items():
            rows = [array] if isinstance(array, np.ndarray) else array
            dtype = rows[0].dtype.newbyteorder("<")
            layout = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (sum(map(len, rows)), *rows[0].shape[1:]),
            }
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, layout)
                for part in rows:
                    member.write(np.ascontiguousarray(part, dtype).tobytes())


def json_array(value: Any) -> np.ndarray:
    """Strings and the like as an array of bytes, (n,) uint8, for `write_arrays`."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


class ArrayFile:
    """Reads what `write_arrays` wrote; a context manager.

    Raises:
        InputError: there is no such file, or it is damaged or another kind of file. So do all methods.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._size = path.stat().st_size
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
        except DAMAGED as error:
            raise self.error("is no .npz file, or is cut short") from error

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def error(self, what: str) -> InputError:
        """What is wrong with the file, as an error to raise."""
        return InputError(f"{self._path} {what}; make it anew with `psamf-edge extract`.")

    def read(self, name: str, dtype: type, dimensions: int) -> np.ndarray:
        """An array of exactly this dtype and number of dimensions; it can be written to."""
        try:
            info = self._archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > self._size:
                raise self.error(f"has a member {name} that was not written by psamf-edge")
            with self._archive.open(info) as member:
                if np.lib.format.read_magic(member) != (1, 0):
                    raise ValueError("another version of .npy")
                shape, fortran, found = np.lib.format.read_array_header_1_0(member)
                wanted = np.dtype(dtype).newbyteorder("<")
                expected = math.prod(shape) * wanted.itemsize
                if found != wanted or fortran or len(shape) != dimensions or expected != info.file_size - member.tell():
                    raise ValueError(f"{found} {shape} is not what belongs there")
                return np.frombuffer(bytearray(member.read()), wanted).reshape(shape)
        except KeyError as error:
            raise self.error(f"lacks {name}") from error
        except DAMAGED as error:
            raise self.error(f"is damaged in {name} ({error})") from error

    def rows(self, name: str, lengths: np.ndarray, dtype: type = np.float32) -> list[np.ndarray]:
        """An array (sum of lengths, d), cut into (T_i, d)."""
        together = self.read(name, dtype, 2)
        if (lengths < 0).any() or lengths.sum(dtype=np.int64) != len(together):
            raise self.error(f"has lengths that do not add up to its {len(together)} rows of {name}")
        return np.split(together, np.cumsum(lengths)[:-1]) if len(lengths) else []

    def json(self, name: str) -> Any:
        """What went in through `json_array`."""
        try:
            return json.loads(self.read(name, np.uint8, 1).tobytes())
        except (ValueError, RecursionError) as error:
            raise self.error(f"is damaged in {name} ({error})") from error
