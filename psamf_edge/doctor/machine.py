"""The machine: interpreter, processor, memory, GPU, driver, Jetson. Read from the system's files; nothing is run."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from psamf_edge.backends.driver import cuda_version
from psamf_edge.doctor.finding import MISSING, NOTE, OK, Finding

GROUP = "machine"
ROOT = Path("/")  # of the system's files; tests look elsewhere
JETSON_RELEASE = "etc/nv_tegra_release"

# instructions that int8 products need to be fast, as /proc/cpuinfo calls them. With AVX2 alone int8 still takes about
# half the time of fp32, without it more time (benchmarks/results/cpu_choices.json).
INT8_DOT = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
FAST_INT8 = INT8_DOT | {"avx2"}
SHOWN = ("avx2", "avx512f", *sorted(INT8_DOT - {"asimddp", "i8mm"}), "avx512_bf16", "asimd", "asimddp", "i8mm", "sve")

CUDA_ERROR_NO_DEVICE = 100
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR, INTEGRATED = 75, 76, 18  # CUdevice_attribute


def machine_findings() -> list[Finding]:
    """All of them; a Jetson's own only on a Jetson."""
    return [python(), processor(), memory(), *gpus(), cuda_compiler(), *jetson()]


def python() -> Finding:
    """The interpreter."""
    return Finding(GROUP, "Python", OK, f"{platform.python_version()}, {sys.executable}")


def processor() -> Finding:
    """Its name, cores, and the instructions that matter to the int8 model."""
    info = _text(ROOT / "proc/cpuinfo")
    name = _first(r"^model name\s*:\s*(.+)$", info) or platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = set((_first(r"^(?:flags|Features)\s*:\s*(.+)$", info) or "").split())
    detail = f"{name}, {usable} cores, {platform.machine()}"
    if not flags:
        return Finding(GROUP, "CPU", OK, f"{detail}; this system does not tell its instruction sets")
    has = [flag for flag in SHOWN if flag in flags]
    detail = f"{detail}; {' '.join(has) or 'no vector instructions that matter'}"
    if flags & FAST_INT8:
        return Finding(GROUP, "CPU", OK, detail)
    return Finding(
        GROUP,
        "CPU",
        NOTE,
        f"{detail}; no instructions that int8 needs, so that it is no faster than fp32",
        "psamf-edge compile --target cpu --precision fp32 -o fp32.psamf, and compare the two",
    )


def memory() -> Finding:
    """Total and available; about 250 MB are needed."""
    info = _text(ROOT / "proc/meminfo")
    total, free = (_first(rf"^{name}:\s*(\d+) kB$", info) for name in ("MemTotal", "MemAvailable"))
    if total is None or free is None:
        return Finding(GROUP, "memory", OK, "this system does not tell it")
    free_gb = int(free) * 1024 / 1e9  # "kB" there are 1024 bytes
    detail = f"{int(total) * 1024 / 1e9:.1f} GB, {free_gb:.1f} GB of it available"
    if free_gb < 0.3:
        return Finding(GROUP, "memory", NOTE, detail, "end other programs: a clip takes about 250 MB")
    return Finding(GROUP, "memory", OK, detail)


def gpus(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> list[Finding]:
    """The driver and each GPU, asked through the driver's own library.

    Args:
        load: opens a shared library by name.
    """
    serves = "bundles with TensorRT engines (--device cuda)"
    try:
        cuda = load("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        mend = "install NVIDIA's driver, if there is an NVIDIA GPU; without one the CPU does everything"
        return [Finding(GROUP, "NVIDIA driver", MISSING, "libcuda is not on this machine", mend, serves)]
    code, count, version = cuda.cuInit(0), ctypes.c_int(), ctypes.c_int()
    if code == CUDA_ERROR_NO_DEVICE:
        return [Finding(GROUP, "NVIDIA driver", NOTE, "the driver is here and finds no GPU", None, serves)]
    if code:
        mend = "load the kernel module, or start the container with access to the GPU (docker run --gpus all)"
        return [
            Finding(GROUP, "NVIDIA driver", MISSING, f"the driver does not start (cuInit gives {code})", mend, serves)
        ]
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    release = _first(r"Kernel Module(?: for \S+)?\s+([\d.]+)", _text(ROOT / "proc/driver/nvidia/version"))
    major, minor = cuda_version(version.value)
    supports = f"CUDA up to {major}.{minor}"
    findings = [Finding(GROUP, "NVIDIA driver", OK, f"{release}, {supports}" if release else supports)]
    return findings + [_gpu(cuda, number) for number in range(count.value)]


def _gpu(cuda: ctypes.CDLL, number: int) -> Finding:
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), number)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), number)

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), which, number)
        return value.value

    capability = f"{attribute(COMPUTE_CAPABILITY_MAJOR)}.{attribute(COMPUTE_CAPABILITY_MINOR)}"
    kind = "shares the host's memory" if attribute(INTEGRATED) else "memory of its own"
    detail = (
        f"{name.value.decode(errors='replace')}, compute capability {capability}, {memory.value / 1e9:.1f} GB, {kind}"
    )
    return Finding(GROUP, f"GPU {number}", OK, detail)


def cuda_compiler() -> Finding:
    """nvcc, which is one of the two ways to compile the kernels; the other is NVRTC (see packages)."""
    folders = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    places = [folder / "bin" / "nvcc" for folder in [*folders, ROOT / "usr/local/cuda"]]
    on_path = shutil.which("nvcc")
    found = on_path or next((str(place) for place in places if place.is_file()), None)
    if found is None:
        mend = "nothing, where cuda-bindings with NVRTC is installed; else install NVIDIA's CUDA toolkit"
        return Finding(GROUP, "nvcc", MISSING, "no CUDA toolkit was found", mend, "compiling the CUDA kernels")
    if on_path is None:
        return Finding(GROUP, "nvcc", NOTE, f"{found}, not on PATH", f"export PATH={Path(found).parent}:$PATH")
    return Finding(GROUP, "nvcc", OK, found)


def is_jetson() -> bool:
    """Whether Jetson Linux runs here."""
    return (ROOT / JETSON_RELEASE).is_file()


def jetson() -> list[Finding]:
    """Board, L4T release and power mode of a Jetson; nothing elsewhere."""
    release = _text(ROOT / JETSON_RELEASE)
    board = _text(ROOT / "proc/device-tree/model").strip("\0\n ")
    major, minor = _first(r"R(\d+)", release), _first(r"REVISION:\s*([\d.]+)", release)
    if major is None:
        return []
    findings = [Finding(GROUP, "Jetson", OK, f"{board or 'unknown board'}, L4T {major}.{minor}")]
    current = _first(r"pmode:(\d+)", _text(ROOT / "var/lib/nvpmodel/status"))
    modes = dict(re.findall(r"<\s*POWER_MODEL ID=(\d+) NAME=(\S+)\s*>", _text(ROOT / "etc/nvpmodel.conf")))
    if current is None:
        mend = "sudo nvpmodel -q"
        return [*findings, Finding(GROUP, "power mode", NOTE, "the system does not tell it", mend)]
    name = modes.get(str(int(current)), "unnamed")
    detail = f"{int(current)} ({name}); modes are {', '.join(f'{i} {n}' for i, n in modes.items()) or 'not listed'}"
    best = next((number for number, label in modes.items() if label.startswith("MAXN")), None)
    if best is not None and best != str(int(current)):
        mend = f"sudo nvpmodel -m {best} && sudo jetson_clocks, for the shortest latency"
        return [*findings, Finding(GROUP, "power mode", NOTE, detail, mend)]
    return [*findings, Finding(GROUP, "power mode", OK, detail)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, or a file that is not for us
        return ""


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(1).strip() if match else None
