"""CUDA text to machine code: by NVRTC, which pip installs, and by nvcc, which also reports what a kernel costs.

Architectures are NVIDIA's names: `sm_87` gives a cubin for that GPU alone, `compute_87` gives PTX, which the driver of
any GPU from 8.7 on compiles when it loads it. A driver does not load PTX of a CUDA newer than its own, so code for a
device with an older driver (JetPack 6: CUDA 12) is best made there, by NVRTC.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psamf_edge.backends.driver import Driver, DriverError
from psamf_edge.errors import MissingDependencyError, PsamfError, UsageError

# compute capabilities that CUDA 13 compiles for: Turing, Ampere (Orin is 87), Ada, Hopper, Blackwell (Thor is 110)
ARCHITECTURES = ("75", "80", "86", "87", "89", "90", "100", "110", "120")
_TIMEOUT = 300  # seconds; a kernel takes one


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one architecture, as ptxas reports it."""

    registers: int  # of a thread
    stack: int  # bytes of local memory of a thread
    spills: int  # bytes stored and loaded because registers ran out
    shared: int  # bytes of static shared memory of a block


def nvrtc(source: str, arch: str) -> bytes:
    """Compile with NVRTC.

    Args:
        source: the text of a .cu file that includes nothing.
        arch: `sm_NN` for a cubin, `compute_NN` for PTX.

    Raises:
        MissingDependencyError: cuda-bindings or NVRTC is not installed.
        UsageError: the name of the architecture is malformed.
        PsamfError: the text does not compile, or not for this architecture; the message has the compiler's.
    """
    _check(arch)
    try:
        from cuda.bindings import nvrtc as library

        library.nvrtcVersion()
    except Exception as error:  # without the library, cuda-bindings raises a private class
        raise MissingDependencyError(
            f"Compiling a kernel here needs NVRTC ({error}): `pip install cuda-bindings nvidia-cuda-nvrtc`, or"
            " nvidia-cuda-nvrtc-cu12 for a driver of CUDA 12."
        ) from error

    def call(name: str, *arguments: Any) -> Any:
        code, *values = getattr(library, name)(*arguments)
        if int(code):
            raise PsamfError(f"NVRTC failed in {name}: {code.name}.{_log(library, program)}")
        return values[0] if values else None

    program = None
    program = call("nvrtcCreateProgram", source.encode(), b"kernel.cu", 0, [], [])
    try:
        options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17"]
        call("nvrtcCompileProgram", program, len(options), options)
        kind = "CUBIN" if arch.startswith("sm_") else "PTX"
        code = b" " * call(f"nvrtcGet{kind}Size", program)
        call(f"nvrtcGet{kind}", program, code)
    finally:
        library.nvrtcDestroyProgram(program)
    return code.rstrip(b"\0") if kind == "PTX" else code  # PTX is text


def _log(library: Any, program: Any) -> str:
    if program is None:
        return ""
    size = library.nvrtcGetProgramLogSize(program)[1]
    log = b" " * size
    library.nvrtcGetProgramLog(program, log)
    return "\n" + log.rstrip(b"\0").decode(errors="replace")


def nvrtc_version() -> tuple[int, int]:
    """CUDA's version of the NVRTC that `nvrtc` uses: major, minor."""
    from cuda.bindings import nvrtc as library

    return tuple(library.nvrtcVersion()[1:])


class DeviceKernels:
    """Kernels compiled for a driver's own device: each text once, each entry loaded when it is first asked for.

    Whoever calls has made the driver's context current.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._codes: dict[Path, bytes] = {}
        self._loaded: dict[tuple[Path, str], int] = {}

    def get(self, source: Path, entry: str) -> int:
        """The handle of one entry of a .cu file.

        Raises:
            MissingDependencyError: as `nvrtc`; or the driver refuses the code, being of an older major version of CUDA
                than NVRTC: the message has the packages that suit it.
            PsamfError: as `nvrtc`.
            DriverError: the driver refuses the code for another reason.
        """
        if (source, entry) not in self._loaded:
            if source not in self._codes:
                major, minor = self._driver.capability
                self._codes[source] = nvrtc(source.read_text(encoding="utf-8"), f"sm_{major}{minor}")
            self._loaded[source, entry] = self._load(self._codes[source], entry)
        return self._loaded[source, entry]

    def _load(self, code: bytes, entry: str) -> int:
        try:
            return self._driver.kernel(code, entry)
        except DriverError as error:
            (made, _), (runs, _) = nvrtc_version(), self._driver.cuda
            if made <= runs:
                raise
            package = "nvidia-cuda-nvrtc-cu12" if runs == 12 else f"'nvidia-cuda-nvrtc=={runs}.*'"  # 13 has no ending
            raise MissingDependencyError(
                f"The driver is of CUDA {runs} and does not load the kernel that NVRTC {made} has made ({error}):"
                f" `pip install 'cuda-bindings<{runs + 1}' {package}`, or update the driver."
            ) from error


def nvcc(source: str, arch: str) -> bytes:
    """As `nvrtc`, with the tool of the CUDA toolkit.

    Raises:
        MissingDependencyError: nvcc is not on PATH.
        UsageError, PsamfError: as `nvrtc`.
    """
    _check(arch)
    kind = "-cubin" if arch.startswith("sm_") else "-ptx"
    return _run_nvcc(source, [f"-arch={arch}", kind])[0]


def resources(source: str, architectures: Sequence[str]) -> dict[str, dict[str, Resources]]:
    """Registers, stack, spills and shared memory of every kernel: {"sm_87": {"name": Resources}}.

    Raises:
        MissingDependencyError, UsageError, PsamfError: as `nvcc`.
    """
    options = ["-fatbin", "-Xptxas", "-v"]
    for arch in architectures:
        _check(arch)
        number = arch.split("_")[1]
        options += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
    return _read_report(_run_nvcc(source, options)[1])


def _read_report(report: str) -> dict[str, dict[str, Resources]]:
    table: dict[str, dict[str, Resources]] = {}
    for part in re.split(r"Compiling entry function ", report)[1:]:
        name, arch = re.match(r"'(\w+)' for '(\w+)'", part).groups()
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack.*?(\d+) bytes.*?(\d+) bytes", part).groups())
        shared = re.search(r"(\d+) bytes smem", part)
        table.setdefault(arch, {})[name] = Resources(
            registers=int(re.search(r"Used (\d+) registers", part)[1]),
            stack=stack,
            spills=stores + loads,
            shared=int(shared[1]) if shared else 0,
        )
    return table


def _run_nvcc(source: str, options: Sequence[str]) -> tuple[bytes, str]:
    tool = shutil.which("nvcc")
    if tool is None:
        raise MissingDependencyError(
            "nvcc is not on PATH: install the CUDA toolkit (13.0 compiles for every supported GPU), or use NVRTC."
        )
    with tempfile.TemporaryDirectory() as folder:
        text, code = Path(folder) / "kernel.cu", Path(folder) / "code"
        text.write_text(source)
        command = [tool, "-std=c++17", *options, "-o", str(code), str(text)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
        if done.returncode:
            raise PsamfError(f"nvcc does not compile this kernel:\n{done.stderr[-4000:]}")
        return code.read_bytes(), done.stderr


def _check(arch: str) -> None:
    if not re.fullmatch(r"(sm|compute)_\d{2,3}[af]?", arch):
        raise UsageError(f"An architecture is sm_NN or compute_NN, as sm_87; {arch!r} is neither.")
