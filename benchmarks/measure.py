"""What the scripts here share: the description of the machine, summaries, and where results go.

Rivals are timed by `psamf_edge.bench`, where they take turns in one loop.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from pathlib import Path

from psamf_edge.bench import series
from psamf_edge.bench.conditions import busy_cores
from psamf_edge.bench.series import take_turns
from psamf_edge.doctor.machine import processor

__all__ = ["RESULTS", "busy_cores", "machine", "save", "summary", "take_turns"]

RESULTS = Path(__file__).parent / "results"


def summary(times: list[float]) -> dict[str, float]:
    """Count, median, 95th percentile and minimum, to a hundredth."""
    figures = series.summary(times)
    return {"n": figures["n"]} | {name: round(figures[name], 2) for name in ("p50", "p95", "min")}


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    import onnxruntime

    return {
        "date": date.today().isoformat(),
        "cpu": processor().detail.partition(",")[0],
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
    }


def save(name: str, record: dict, elsewhere: Path | None = None) -> Path:
    """Write benchmarks/results/NAME.json, or a file elsewhere."""
    path = elsewhere or RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
