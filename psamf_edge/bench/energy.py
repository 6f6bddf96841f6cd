"""Energy: counters of the processor (RAPL) and of the GPU (NVML), and a Jetson board's power sensors (INA3221)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from psamf_edge.bench.nvml import Nvml, NvmlError
from psamf_edge.doctor import machine

INTERVAL_S = 0.02  # between two looks at a power sensor: an INA3221 averages over some milliseconds
WHOLE_BOARD = "VDD_IN"  # the rail before all others on Orin Nano and NX; where it is, it is the sum
WITHIN = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}  # a rail to the one before it: on AGX Orin the memory's hangs on 5 V
CARRIER = "CVB_"  # how rails of a carrier board begin; they feed the module's, or what is beside the module
Rails = dict[str, tuple[Path, Path]]  # label: files of millivolts and milliamperes


class Meter(Protocol):
    """Measures joules between `start` and `stop`."""

    name: str

    def start(self) -> None: ...

    def stop(self) -> float:
        """Joules since `start`."""


class CounterMeter:
    """A counter that only grows, until it starts at zero again.

    Args:
        name: of what it measures.
        read: gives the counter.
        joules: of one count.
        wrap: the counter's range, where it has one; the run must be shorter than it takes to go round.
    """

    def __init__(self, name: str, read: Callable[[], int], joules: float, wrap: int | None = None) -> None:
        self.name, self._read, self._joules, self._wrap = name, read, joules, wrap
        self._first = 0

    def start(self) -> None:
        self._first = self._read()

    def stop(self) -> float:
        counts = self._read() - self._first
        if counts < 0 and self._wrap:
            counts += self._wrap
        return counts * self._joules


class PowerMeter:
    """A sensor of watts, read again and again by a thread; what lies between two readings is taken as straight."""

    def __init__(self, name: str, watts: Callable[[], float], interval_s: float = INTERVAL_S) -> None:
        self.name, self._watts, self._interval_s = name, watts, interval_s
        self._readings: list[tuple[float, float]] = []  # seconds, watts
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._readings = []
        self._done.clear()
        self._look()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        self._look()
        return joules_of(self._readings)

    def _look_on(self) -> None:
        while not self._done.wait(self._interval_s):
            self._look()

    def _look(self) -> None:
        self._readings.append((time.perf_counter(), self._watts()))


def joules_of(readings: list[tuple[float, float]]) -> float:
    """The integral of (seconds, watts) by the trapezium rule."""
    return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(readings))


def find_meters(gpu: Nvml | None) -> tuple[list[Meter], list[str]]:
    """What can be measured here, and a sentence for each thing that cannot.

    Args:
        gpu: where the model runs on a GPU.
    """
    meters: list[Meter] = []
    reasons: list[str] = []
    for find in (rapl, ina3221):
        found, reason = find()
        meters += found
        reasons += [reason] if reason else []
    if gpu is not None:
        try:
            gpu.energy_mj()
            meters.append(CounterMeter("GPU (NVML)", gpu.energy_mj, 1e-3))
        except NvmlError as error:
            reasons.append(f"The GPU does not tell its energy: {error}.")
    return meters, reasons


def rapl() -> tuple[list[Meter], str | None]:
    """The packages of the processor, as Linux's powercap shows them (Intel and AMD)."""
    zones = sorted((machine.ROOT / "sys/class/powercap").glob("intel-rapl:*"))
    packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if not packages:
        return [], "The processor does not tell its energy (no RAPL in /sys/class/powercap)."
    try:
        return [_package(zone) for zone in packages], None
    except (OSError, ValueError) as error:
        how = "run as root, or: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        return [], f"The processor's energy cannot be read ({error}): {how}."


def _package(zone: Path) -> Meter:
    def read() -> int:
        return int((zone / "energy_uj").read_text())

    read()
    wrap = _text(zone / "max_energy_range_uj")
    return CounterMeter(f"processor {_text(zone / 'name')} (RAPL)", read, 1e-6, int(wrap) if wrap else None)


def ina3221() -> tuple[list[Meter], str | None]:
    """All rails of a Jetson module together, or the one rail that feeds them."""
    rails, problem = _readable_rails()
    if not rails and problem is not None:
        return [], f"The board's power sensors (INA3221) cannot be read: {problem}."
    if not rails:
        on_jetson = (machine.ROOT / "etc/nv_tegra_release").exists()
        return [], "The board's power sensors (INA3221) are not in /sys/class/hwmon." if on_jetson else None
    rails = _disjoint(rails)

    def watts() -> float:
        return sum(_watts(files) for files in rails.values())

    return [PowerMeter(f"board, {' + '.join(rails)} (INA3221)", watts)], None


def _readable_rails() -> tuple[Rails, Exception | None]:
    """The channels that have a name and can be read now, and why the last of the others could not be."""
    rails: Rails = {}
    problem = None
    for chip in sorted((machine.ROOT / "sys/class/hwmon").glob("hwmon*")):
        for channel in (1, 2, 3) if _text(chip / "name") == "ina3221" else ():
            files = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            label = _text(chip / f"in{channel}_label")
            if label:  # a channel that leads nowhere has none; the driver shows its files all the same
                try:
                    _watts(files)
                    rails[label] = files
                except (OSError, ValueError) as error:  # ENODATA: it is disabled
                    problem = error
    return rails, problem


def _disjoint(rails: Rails) -> Rails:
    """Those that may be added, so that no watt is counted twice."""
    if WHOLE_BOARD in rails:
        return {WHOLE_BOARD: rails[WHOLE_BOARD]}
    module = {label: files for label, files in rails.items() if not label.startswith(CARRIER)} or rails
    return {label: files for label, files in module.items() if WITHIN.get(label) not in module}


def _watts(files: tuple[Path, Path]) -> float:
    millivolts, milliamperes = (int(file.read_text()) for file in files)
    return millivolts * milliamperes * 1e-6


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
