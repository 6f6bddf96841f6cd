"""What this process and its decoder hold on to, read from /proc, and whether it grows."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from psamf_edge.bench.memory import child_processes, resident_mb

SETTLED = 0.2  # share of a run in which caches and arenas fill; growth is judged on what follows
INTERVAL = 2.0  # standard errors to either side: 95 % for thirty readings or more
MOST_RELATED = 0.9  # lag-1 correlation of residuals beyond which the interval is widened no further


@dataclass(frozen=True)
class Reading:
    """A look after `done` inferences or clips. memfds: mappings and handles of memory without a name, as frames use."""

    done: int
    resident_mb: float
    decoder_mb: float  # of all children together
    handles: int
    decoder_handles: int
    memfds: int
    threads: int
    children: int
    zombies: int
    temporary_files: int


HELD = ("handles", "decoder_handles", "memfds", "threads", "children", "zombies", "temporary_files")


def read(done: int) -> Reading:
    """What is held now, once the garbage is collected."""
    gc.collect()
    children = child_processes()
    alive = [pid for pid in children if state(pid) not in "ZX"]
    decoders = [resident_mb(pid) or (0.0, 0.0) for pid in alive]
    return Reading(
        done,
        resident_mb()[0],
        sum(now for now, _ in decoders),
        len(os.listdir("/proc/self/fd")) - 1,  # the listing has one itself
        sum(_handles(pid) for pid in alive),
        _memfds(),
        len(os.listdir("/proc/self/task")),
        len(children),
        len(children) - len(alive),
        len(os.listdir(tempfile.gettempdir())),
    )


def state(pid: int) -> str:
    """Of a process, by Linux's letter: Z for one that ended and was not waited for, X for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _handles(pid: int) -> int:
    with suppress(OSError):  # a sandboxed decoder may hide them
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0


def _memfds() -> int:
    mapped = Path("/proc/self/maps").read_text().count("/memfd:")
    opened = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            opened += os.readlink(link).startswith("/memfd:")
    return mapped + opened


@dataclass(frozen=True)
class Slope:
    """Bytes for each inference or clip: the fitted line's slope, and its 95 % interval."""

    bytes_each: float
    low: float
    high: float


def slope(done: Sequence[float], megabytes: Sequence[float]) -> Slope:
    """The least-squares line through the readings after SETTLED.

    Memory moves in steps, so that neighbouring residuals are alike: the interval is widened by sqrt((1 + r) / (1 - r))
    for their lag-1 correlation r, as for means of an AR(1) series.
    """
    x, y = (np.asarray(values, float) for values in (done, megabytes))  # (N,) each
    late = x >= SETTLED * x[-1]
    x, y = x[late] - x[late].mean(), 1e6 * y[late]
    if len(x) < 3:
        raise ValueError(f"{len(x)} readings after the first fifth make no line; take three or more.")
    fitted = float(x @ y / (x @ x))
    residuals = y - y.mean() - fitted * x
    power = float(residuals @ residuals)
    error = np.sqrt(power / (len(x) - 2) / (x @ x))
    related = 0.0 if power == 0 else min(max(float(residuals[1:] @ residuals[:-1]) / power, 0.0), MOST_RELATED)
    half = INTERVAL * float(error) * float(np.sqrt((1 + related) / (1 - related)))
    return Slope(round(fitted, 1), round(fitted - half, 1), round(fitted + half, 1))


def judge(readings: Sequence[Reading], most_bytes_each: Mapping[str, float]) -> tuple[dict, list[str]]:
    """Figures of a run for the record, and a sentence for everything that grew.

    Args:
        readings: the first of them after a warm-up.
        most_bytes_each: of `resident_mb` and `decoder_mb`; where the slope's interval ends above this, it grows.
    """
    done = [reading.done for reading in readings]
    figures: dict = {}
    complaints = []
    for name, most in most_bytes_each.items():
        values = [getattr(reading, name) for reading in readings]
        line = slope(done, values)
        figures[name] = {"first": round(values[0], 2), "last": round(values[-1], 2), "most": round(max(values), 2),
                         "slope": asdict(line), "most_bytes_each": most}  # fmt: skip
        if line.high > most:
            complaints.append(f"{name} grows by up to {line.high:g} bytes each, and {most:g} may be.")
    for name in HELD:
        values = [getattr(reading, name) for reading in readings]
        figures[name] = {"first": values[0], "last": values[-1], "most": max(values)}
        if values[-1] > values[0]:
            complaints.append(f"{name} rose from {values[0]} to {values[-1]}.")
    memory = {name: [round(getattr(reading, name), 2) for reading in readings] for name in most_bytes_each}
    return {**figures, "readings": {"done": done, **memory}}, complaints
