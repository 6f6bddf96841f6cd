"""training.json: what a directory of weights says of its training. It is the last file that a training writes."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from psamf_edge.compile.files import atomic
from psamf_edge.compile.training.settings import LoopSettings

RECORD = "training.json"


def training_record(settings: LoopSettings, about_data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """When, with which settings and versions, from which data; `more` stands between."""
    return {
        "date": date.today().isoformat(),
        **more,
        "settings": asdict(settings),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        **about_data,
    }


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    """Into `out`, whole or not at all."""
    with atomic(out / RECORD) as new:
        new.write_text(json.dumps(record, indent=2) + "\n")
