"""The text of a CUDA kernel, compiled by g++ with shim.h and run on the CPU through ctypes.

What it shows: the kernel's own arithmetic, indexing and control flow, with real barriers and shuffles. Shared memory
holds NaN when a block starts, a barrier that some thread misses is an error, and another order of threads must give the
same bits.

What it cannot show: races between threads that truly run at once (the orders tried are few, and a thread never stops
between two barriers); blocks that disturb each other; the GPU's own expf, erff and rsqrtf and its fused multiply-add,
so its last bits; the rounding inside tensor cores (conversions between half and float are exact here); alignment
faults; and anything at all about time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from psamf_edge.errors import IntegrityError, MissingDependencyError, PsamfError, UsageError

SHIM = Path(__file__).with_name("shim.h")
# no-strict-aliasing: kernels load four numbers as one vector; U_FORTIFY_SOURCE: a checked longjmp refuses another stack
FLAGS = ("-std=c++17", "-O2", "-shared", "-fPIC", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas")
FAILURES = {
    1: "some threads wait at a barrier that the others never reach",
    2: "a shuffle's mask is not the whole warp",
}


class HostKernel:
    """A compiled kernel text. Launches of one process take turns: fibers and shared memory exist once.

    Args:
        source: the .cu file.
        entries: names of the `extern "C" __global__` functions to call.

    Raises:
        MissingDependencyError: there is no g++, or the cache directory cannot be made.
        PsamfError: the text does not compile; the message has the compiler's.
    """

    def __init__(self, source: Path, entries: Sequence[str]) -> None:
        self._library = ctypes.CDLL(str(_built(source, entries)))
        self._lock = threading.Lock()

    def launch(
        self,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[np.ndarray | int],
        seed: int = 0,
    ) -> None:
        """Run one launch to its end.

        Args:
            entry: one of `entries`.
            grid: blocks in x, y, z.
            block: threads in x; y and z are 1.
            arguments: C-contiguous arrays for pointers, integers for int32, in the signature's order.
            seed: of the order in which threads run between barriers; 0 is ascending. No result may depend on it.

        Raises:
            UsageError: an array is not C-contiguous.
            PsamfError: a barrier or a shuffle is wrong.
        """
        for value in arguments:
            if isinstance(value, np.ndarray) and not value.flags.c_contiguous:
                raise UsageError("A kernel takes C-contiguous arrays: pass np.ascontiguousarray(x).")
        values = [
            ctypes.c_void_p(value.ctypes.data) if isinstance(value, np.ndarray) else ctypes.c_int(value)
            for value in arguments
        ]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        function = getattr(self._library, f"launch_{entry}")
        with self._lock:
            code = function((ctypes.c_uint * 3)(*grid), ctypes.c_uint(block[0]), ctypes.c_uint(seed), addresses)
        if code:
            raise PsamfError(f"The kernel {entry} stopped: {FAILURES[code]}.")


def _built(source: Path, entries: Sequence[str]) -> Path:
    """The shared library of a kernel text, from the cache if this very text was compiled before with these flags."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise MissingDependencyError("Running a kernel on the CPU needs g++: install it (Debian: `apt install g++`).")
    launchers = "\n".join(
        f'extern "C" int launch_{entry}(const unsigned* grid, unsigned threads, unsigned seed, void** arguments) {{\n'
        f"    return shim::launch(&{entry}, grid, threads, seed, arguments);\n}}"
        for entry in entries
    )
    texts = [f'#line 1 "{path.name}"\n{path.read_text()}' for path in (SHIM, source)]
    text = "\n".join([*texts, launchers, ""]).replace("#pragma once", "")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(b"\0".join([version, " ".join(FLAGS).encode(), text.encode()])).hexdigest()
    library = _cache() / f"{source.stem}-{key[:32]}.so"
    if library.is_file():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / "made.so"
        (Path(folder) / "text.cpp").write_text(text)
        done = subprocess.run(
            [compiler, *FLAGS, str(Path(folder) / "text.cpp"), "-o", str(made)], capture_output=True, text=True
        )
        if done.returncode:
            raise PsamfError(f"g++ does not compile {source.name} for the CPU:\n{done.stderr[-4000:]}")
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(library)  # at once: another process sees all of it or nothing
    return library


def _cache() -> Path:
    """The user's own cache directory: what lies there is loaded as code, so nobody else may write into it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "psamf-edge" / "kernels"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MissingDependencyError(
            f"The kernel cache {directory} cannot be made ({error}): set XDG_CACHE_HOME to a directory of yours."
        ) from error
    status = directory.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise IntegrityError(
            f"Others can write into {directory}, whose code would be run: `chmod 700` it, or remove it."
        )
    return directory
