"""ONNX Runtime on this processor as if it were an older one: the same clock and caches, fewer instructions.

ONNX Runtime picks its kernels by asking CPUID, and has no option against it. In a copy of its library every CPUID
instruction becomes an illegal one, and a signal handler answers in its place, without the instructions that are to be
missing. All that runs afterwards are the library's own kernels for such a processor, at this processor's speed; what
else an older one is slower in (clock, caches, narrower units) this does not show.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from psamf_edge.doctor import machine

CPUID, ILLEGAL = b"\x0f\xa2", b"\x0f\x0b"  # the second is UD2, as long as the first
HANDLER = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

static unsigned without_1c, without_7b, without_7c, without_71a;

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned a, b, c, d, leaf = r[REG_RAX], part = r[REG_RCX];
    __cpuid_count(leaf, part, a, b, c, d);
    if (leaf == 1) c &= ~without_1c;
    if (leaf == 7 && part == 0) b &= ~without_7b, c &= ~without_7c;
    if (leaf == 7 && part == 1) a &= ~without_71a;
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

int pretend(unsigned leaf_1c, unsigned leaf_7b, unsigned leaf_7c, unsigned leaf_71a) {
    struct sigaction action = {0};
    without_1c = leaf_1c, without_7b = leaf_7b, without_7c = leaf_7c, without_71a = leaf_71a;
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGILL, &action, 0);
}
"""
# bits of CPUID's leaves, as Intel's and AMD's manuals number them
_AVX512 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31  # F, DQ, IFMA, CD, BW, VL: leaf 7, EBX
_AVX512_MORE = 1 << 1 | 1 << 6 | 1 << 12 | 1 << 14  # VBMI, VBMI2, BITALG, VPOPCNTDQ: leaf 7, ECX
_VNNI, _AVX_VNNI, _BF16 = 1 << 11, 1 << 4, 1 << 5  # leaf 7, ECX; leaf 7.1, EAX, both
_AVX2, _FMA = 1 << 5, 1 << 12  # leaf 7, EBX; leaf 1, ECX


@dataclass(frozen=True)
class Processor:
    """One to pretend.

    has, lacks: flags of /proc/cpuinfo. This processor must have the first, and one of the second: else it is no newer.
    without: bits missing from leaf 1 ECX, leaf 7 EBX, leaf 7 ECX and leaf 7.1 EAX.
    """

    name: str
    has: str
    lacks: frozenset[str]
    without: tuple[int, int, int, int]

    def suits(self, flags: set[str]) -> bool:
        """Whether a processor with these flags can pretend to be this one."""
        return self.has in flags and bool(self.lacks & flags)


PROCESSORS = (
    Processor("AVX-512 without VNNI", "avx512bw", frozenset({"avx512_vnni"}), (0, 0, _VNNI, _AVX_VNNI | _BF16)),
    Processor("AVX2", "avx2", frozenset({"avx512f", "avx_vnni"}),
              (0, _AVX512, _AVX512_MORE | _VNNI, _AVX_VNNI | _BF16)),
    Processor("AVX", "avx", frozenset({"avx2"}), (_FMA, _AVX512 | _AVX2, _AVX512_MORE | _VNNI, _AVX_VNNI | _BF16)),
)  # fmt: skip


class UnavailableError(Exception):
    """No older processor can be pretended here; says why."""


def flags() -> set[str]:
    """The instruction sets of this processor, as /proc/cpuinfo names them; empty where there is none."""
    try:
        info = (machine.ROOT / "proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:\s*(.+)$", info, re.M)
    return set(found[1].split()) if found else set()


def prepare(folder: Path) -> Path:
    """Write the copy of ONNX Runtime and the handler. Give the folder to `pretend`, and put it first in PYTHONPATH.

    Raises:
        UnavailableError: another system or processor, or no compiler.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UnavailableError("only tried on Linux x86_64")
    if missing := [tool for tool in ("gcc", "objdump") if shutil.which(tool) is None]:
        raise UnavailableError(f"needs {' and '.join(missing)}")
    installed = Path(importlib.util.find_spec("onnxruntime").origin).parent
    unused = shutil.ignore_patterns("libonnxruntime.so*", "transformers", "tools", "__pycache__")
    copy = Path(shutil.copytree(installed, folder / "onnxruntime", ignore=unused))
    (library,) = copy.glob("capi/onnxruntime_pybind11_state*.so")
    code = bytearray(library.read_bytes())
    for place in _cpuid_places(library):
        if code[place : place + 2] != CPUID:
            raise UnavailableError(f"objdump and {library.name} disagree on where CPUID stands")
        code[place : place + 2] = ILLEGAL
    library.unlink()  # it may be a hard link to the installed one
    library.write_bytes(code)
    source = folder / "pretend.c"
    source.write_text(HANDLER)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", folder / "pretend.so", source], check=True)
    return folder


def _cpuid_places(library: Path) -> list[int]:
    """Offsets in the file of all CPUID instructions."""

    def objdump(*arguments: str) -> str:
        return subprocess.run(["objdump", *arguments, library], capture_output=True, text=True, check=True).stdout

    section = re.search(r"\.text\s+\w+\s+(\w+)\s+\w+\s+(\w+)", objdump("-h", "-j", ".text"))
    address, offset = (int(value, 16) for value in section.groups())
    listing = objdump("-d", "-j", ".text", "--no-show-raw-insn")
    return [int(found, 16) - address + offset for found in re.findall(r"^\s*(\w+):\s+cpuid", listing, re.M)]


def pretend(folder: Path, without: tuple[int, int, int, int]) -> None:
    """Hide instructions from the ONNX Runtime in this folder, which must not be imported yet."""
    if "onnxruntime" in sys.modules:
        raise RuntimeError("ONNX Runtime was imported before the processor was pretended.")
    if ctypes.CDLL(str(folder / "pretend.so")).pretend(*map(ctypes.c_uint, without)):
        raise OSError("The handler of illegal instructions could not be installed.")
