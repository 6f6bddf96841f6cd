"""Memory of processes, from Linux's /proc; other systems tell only the peak, or nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from psamf_edge.doctor import machine


def resident_mb(pid: int | str = "self") -> tuple[float, float] | None:
    """Resident memory of a process now and at its peak, in MB of 10^6 bytes; None where the system does not tell."""
    try:
        lines = (machine.ROOT / f"proc/{pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        return _mb(values["VmRSS"]), _mb(values["VmHWM"])
    except (OSError, KeyError, ValueError):  # another system, or a process that has ended
        return None


def peak_mb() -> float | None:
    """The peak of this process, also where there is no /proc; None on Windows."""
    known = resident_mb()
    if known is not None:
        return known[1]
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # bytes there, kibibytes elsewhere


def child_processes() -> list[int]:
    """Process ids of our direct children: the decoder of every open Analyzer. Empty where the system does not tell."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:  # the thread has ended
            continue
    return found


def _mb(entry: str) -> float:
    return int(entry.split()[0]) * 1024 / 1e6  # "kB" there are 1024 bytes
