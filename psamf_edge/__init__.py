"""psamf-edge: sentiment of talking-head clips from words, voice and face, on the device.

>>> import psamf_edge
>>> psamf_edge.load()("clip.mp4").score  # doctest: +SKIP
1.2

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Before anybody imports ONNX Runtime: its newer wheels for Linux and macOS (1.29 does) give the user a number, keep it
# in the home and report sessions to their maker. Nothing here leaves the machine unless the user says otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from psamf_edge.analyzer import Analyzer
    from psamf_edge.errors import PsamfError
    from psamf_edge.metrics import evaluate_scores
    from psamf_edge.report import render
    from psamf_edge.result import Result

__version__ = "0.1.0"
__all__ = ["Analyzer", "PsamfError", "Result", "__version__", "evaluate_scores", "load", "render"]

_HOME = {
    "Analyzer": "psamf_edge.analyzer",
    "PsamfError": "psamf_edge.errors",
    "Result": "psamf_edge.result",
    "evaluate_scores": "psamf_edge.metrics",
    "render": "psamf_edge.report",
}


def load(
    bundle: Path | str | None = None,
    device: str = "auto",
    require_signature: Path | str | None = None,
    limits: Mapping[str, int] | None = None,
    threads: int = 1,
) -> Analyzer:
    """Load a bundle, or the one that ships with psamf-edge, and give what analyses clips: see `Analyzer`."""
    from psamf_edge.analyzer import Analyzer

    return Analyzer(bundle, device, threads, require_signature=require_signature, limits=limits)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
