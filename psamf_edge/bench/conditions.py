"""The machine that figures were measured on, and what it was doing before and after: clocks, load, stolen time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from psamf_edge import __version__
from psamf_edge.bench.nvml import Nvml, NvmlError
from psamf_edge.doctor import machine

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "av", "tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda")
LOOK_S = 0.5  # how long the idle processor is watched: fifty ticks of /proc/stat on every core


@dataclass(frozen=True)
class Conditions:
    """A moment of the machine. None: the system does not tell."""

    busy_cores: float | None = None  # cores that others used while we slept; only looked at before a run
    load: float | None = None  # average of a minute
    pressure: float | None = None  # per cent of ten seconds in which some task waited for a core (Linux PSI)
    stolen: float | None = None  # seconds of core time that the host of a virtual machine kept, since it started
    governor: str | None = None
    cpu_mhz: float | None = None  # of the fastest core
    cpu_max_mhz: float | None = None
    gpu_mhz: float | None = None
    gpu_celsius: float | None = None
    gpu_throttled: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        return asdict(self)


def describe_machine() -> dict:
    """Name, memory and power mode of the machine, and every version that could matter."""
    jetson = {finding.name: finding for finding in machine.jetson()}
    board, power = jetson.get("Jetson"), jetson.get("power mode")
    return {
        "cpu": machine.processor().detail,
        "cores": usable_cores(),
        "memory": machine.memory().detail.split(",")[0],  # the total; what is free changes
        "gpus": [finding.detail for finding in machine.gpus() if finding.name.startswith("GPU")],
        "board": board.detail if board else None,
        "power_mode": power.detail if power else None,
        "power_mend": power.mend if power else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {"psamf-edge": __version__, "python": platform.python_version(), **_versions()},
    }


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = (_text("sys/fs/cgroup/cpu.max") or "max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def look(gpu: Nvml | None = None, idle: bool = False) -> Conditions:
    """The conditions now.

    Args:
        gpu: where the model runs on one.
        idle: nothing of ours is running, so that half a second tells what others use.
    """
    frequencies = _numbers("scaling_cur_freq")
    limits = _numbers("cpuinfo_max_freq")
    load = _text("proc/loadavg").split()
    governors = sorted({_read(path) for path in _cpufreq("scaling_governor")} - {""})
    return Conditions(
        busy_cores=busy_cores() if idle else None,
        load=float(load[0]) if load else None,
        pressure=_pressure(),
        stolen=_stolen(),
        governor=", ".join(governors) or None,
        cpu_mhz=max(frequencies) / 1e3 if frequencies else None,
        cpu_max_mhz=max(limits) / 1e3 if limits else None,
        gpu_mhz=_ask(gpu, "clock_mhz"),
        gpu_celsius=_ask(gpu, "temperature"),
        gpu_throttled=_ask(gpu, "throttled_by") or [],
    )


def busy_cores(sleep: Callable[[float], object] = time.sleep) -> float | None:
    """How many cores others keep busy while this process sleeps."""
    before = _ticks()
    sleep(LOOK_S)
    after = _ticks()
    if before is None or after is None:
        return None
    spent = [b - a for a, b in zip(before, after, strict=True)]
    idle = spent[3] + spent[4]  # idle, and waiting for a disk
    cores = sum(line.startswith("cpu") for line in _text("proc/stat").splitlines()) - 1  # the first line is their sum
    return cores * (1 - idle / sum(spent)) if sum(spent) else 0.0


def _ticks() -> list[int] | None:
    """user, nice, system, idle, iowait, irq, softirq, steal of all cores since the start."""
    line = _text("proc/stat").partition("\n")[0].split()
    return [int(value) for value in line[1:9]] if line[:1] == ["cpu"] and len(line) >= 9 else None


def _stolen() -> float | None:
    ticks = _ticks()
    return ticks[7] / os.sysconf("SC_CLK_TCK") if ticks else None


def _pressure() -> float | None:
    for line in _text("proc/pressure/cpu").splitlines():
        kind, *fields = line.split()
        values = dict(part.split("=") for part in fields)
        if kind == "some" and "avg10" in values:
            return float(values["avg10"])
    return None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _ask(gpu: Nvml | None, question: str):
    if gpu is None:
        return None
    try:
        return getattr(gpu, question)()
    except NvmlError:
        return None


def _cpufreq(name: str) -> list[Path]:
    return sorted((machine.ROOT / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}"))


def _numbers(name: str) -> list[int]:
    return [int(text) for text in map(_read, _cpufreq(name)) if text.isdigit()]


def _text(name: str) -> str:
    return _read(machine.ROOT / name)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
