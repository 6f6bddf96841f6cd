"""What runs in a process of its own: the first clip of a process, or one of several that score at the same time.

Started by `processes`, with the request as JSON in its only argument. It answers in lines of JSON on stdout; an error
is a line too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(began: float) -> None:
    """Serve the one request. `began`: time.perf_counter(), which all processes share, when the interpreter was up."""
    request = json.loads(sys.argv[1])
    try:
        {"cold": cold, "score": score}[request["task"]](request, began)
    except KeyboardInterrupt:
        sys.exit(130)  # whoever started this got the same signal, and says so
    except Exception as error:
        _answer({"error": str(error) or type(error).__name__, "exit_code": getattr(error, "exit_code", 1)})


def cold(request: dict, began: float) -> None:
    """Import, load and score one clip, each timed."""
    import psamf_edge.analyzer  # noqa: F401 (timed)

    imported = time.perf_counter()
    with _open(request) as analyzer:
        loaded = time.perf_counter()
        result = analyzer(request["clip"], text=request["text"])
        scored = time.perf_counter()
    seconds = {
        "start of Python": began - request["spawned"],
        "import": imported - began,
        "load": loaded - imported,
        "first clip": scored - loaded,
        "whole": scored - request["spawned"],
    }
    from psamf_edge.bench.memory import peak_mb

    _answer({"ms": {name: 1e3 * value for name, value in seconds.items()}, "stages": result.timing_ms,
             "peak_mb": peak_mb()})  # fmt: skip


def score(request: dict, began: float) -> None:
    """Load, score `warmup` clips, and at a line on stdin `clips` more; then tell when each ended, and the memory."""
    from psamf_edge.bench import memory

    gpu, used_before = _gpu(request["gpu"])
    with _open(request) as analyzer:

        def once() -> None:
            analyzer(Path(request["clip"]), text=request["text"])

        for _ in range(request["warmup"]):
            once()
        _answer({"ready": True})
        if not sys.stdin.readline():
            return  # whoever started this is gone
        ends = []
        for _ in range(request["clips"]):
            once()
            ends.append(time.perf_counter())
        now = memory.resident_mb()
        decoders = [memory.resident_mb(pid) for pid in memory.child_processes()]
        _answer({
            "ends": ends,
            "resident_mb": now[0] if now else None,
            "peak_mb": memory.peak_mb(),
            "decoder_mb": decoders[0][0] if len(decoders) == 1 and decoders[0] else None,
            "device_mb": None if gpu is None else gpu.used_mb() - used_before,
        })  # fmt: skip
    if gpu is not None:
        gpu.close()


def _open(request: dict):
    """The Analyzer that is asked for."""
    from psamf_edge.analyzer import Analyzer

    return Analyzer(request["bundle"], request["device"], request["threads"], limits=request["limits"])


def _gpu(wanted: bool):
    """NVML and the memory in use before the model is loaded; None where it is not wanted or does not tell."""
    if not wanted:
        return None, 0.0
    from psamf_edge.bench.nvml import Nvml, NvmlError

    try:
        gpu = Nvml()
        return gpu, gpu.used_mb()
    except NvmlError:
        return None, 0.0


def _answer(fields: dict) -> None:
    print(json.dumps(fields), flush=True)
