"""Timing side by side: rivals take turns in one loop, so that a noisy machine disturbs all of them alike."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"


def take_turns(rivals: dict[str, Callable[[], object]], rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """Milliseconds of each call of each rival, in rounds of one call each, after `warmup` rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(warmup + rounds):
        for name, call in rivals.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Count, median, 95th percentile and minimum, in milliseconds."""
    p50, p95 = np.percentile(times, [50, 95])
    return {"n": len(times), "p50": round(p50, 2), "p95": round(p95, 2), "min": round(min(times), 2)}


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    import onnxruntime

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "date": date.today().isoformat(),
        "cpu": model,
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


def resident_mb(pid: int | str = "self") -> tuple[float, float]:
    """Resident memory now and at its peak, in MB, of a process (Linux)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1e3, int(status["VmHWM"].split()[0]) / 1e3


def save(name: str, record: dict) -> Path:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
