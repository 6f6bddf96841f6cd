"""Parts of a plan as files, and back: how a finished stage of a compile is kept."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import onnx

from psamf_edge.bundle import PlanKernel, PlanSegment
from psamf_edge.compile.export.partition import KernelPart, Part, SegmentPart

INDEX = "parts.json"


def parts_to_files(parts: Sequence[Part]) -> dict[str, bytes]:
    """A file for each part's graph or weights, and INDEX with the plan."""
    files, plan = {}, []
    for number, part in enumerate(parts):
        if isinstance(part, KernelPart):
            buffer = io.BytesIO()
            np.save(buffer, part.weights, allow_pickle=False)
            files[f"{number}.npy"] = buffer.getvalue()
        else:
            files[f"{number}.onnx"] = part.model.SerializeToString()
        plan.append(asdict(part.plan))
    return {**files, INDEX: json.dumps(plan).encode()}


def parts_from_files(files: Mapping[str, bytes]) -> list[Part]:
    """What `parts_to_files` was given."""
    parts: list[Part] = []
    for number, raw in enumerate(json.loads(files[INDEX])):
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
        if "kernel" in fields:
            weights = np.load(io.BytesIO(files[f"{number}.npy"]), allow_pickle=False)
            parts.append(KernelPart(PlanKernel(**fields), weights))
        else:
            parts.append(SegmentPart(PlanSegment(**fields), onnx.load_from_string(files[f"{number}.onnx"])))
    return parts
