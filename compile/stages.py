"""The stages of a compile up to the parts of its plan, each kept in the work folder as soon as it is finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

import psamf_edge
from psamf_edge.compile.export.lowering import Exported, compare_all, cut, lower_parts
from psamf_edge.compile.export.onnx_export import Parity
from psamf_edge.compile.export.part_files import parts_from_files, parts_to_files
from psamf_edge.compile.export.partition import Part
from psamf_edge.compile.export.segments import ExportSegment
from psamf_edge.compile.quantisation.calibration import Calibration
from psamf_edge.compile.source import Source
from psamf_edge.compile.work import Work, digest_of, source_digest

LOAD, LOWER, READ, JUDGE, PACK = (
    "load the model",
    "lower the precision, compare with float32",
    "read the data to check with",
    "compare the scores with float32",
    "pack",
)
# seconds for the default weights on one idle core: the proportions are what counts (see Work)
EXPORT_S = {"text": 5.2, "audio": 2.6, "face": 1.6, "fusion": 6.0}
READ_CHECK_SET = ("read the check set to calibrate with", "calibration-check-set")  # titles and names
READ_CALIBRATION = ("read the data to calibrate with", "calibration-data")
CALIBRATE = ("choose smoothing and ranges of the activations", "calibrate")
CALIBRATE_S = 8.0
LOAD_S, LOWER_S, READ_S, JUDGE_S, ENGINE_S, PACK_S = 0.4, 2.4, 0.5, 0.7, 2.0, 0.1
PARITIES = "parities.json"


def software() -> dict[str, str]:
    """The packages that the graphs depend on."""
    return {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def base_key(source: Source, node: bool) -> dict[str, Any]:
    """What every stage depends on. node: whether the cross-modal attention is exported as one node."""
    folder = Path(__file__).parent
    return {
        **source.key,
        **software(),
        "psamf_edge": psamf_edge.__version__,
        "code": source_digest(*(folder / name for name in ("export", "model", "quality", "quantisation"))),
        "node": node,
    }


def export_title(segment: str) -> str:
    """As the log shows it."""
    return f"the graph of the {segment} segment in float32"


def engine_title(segment: str) -> str:
    """As the log shows it."""
    return f"build the engine {segment}"


def expected_seconds() -> dict[str, float]:
    """The stages of every compile for which no bound is broken."""
    exports = {export_title(name): seconds for name, seconds in EXPORT_S.items()}
    return {LOAD: LOAD_S, **exports, LOWER: LOWER_S, READ: READ_S, JUDGE: JUDGE_S, PACK: PACK_S}


def export_all(
    work: Work, source: Source, key: dict[str, Any], segments: Sequence[ExportSegment], names: tuple[str, ...] | None
) -> list[Exported]:
    """Every segment in float32. names: of what kernel nodes cut a graph into, None to leave it whole."""
    exported = []
    for segment in segments:
        name = segment.plan.name

        def make(segment: ExportSegment = segment) -> dict[str, bytes]:
            return {"model.onnx": source.export(segment).SerializeToString()}

        files = work.once(export_title(name), f"export-{name}", {**key, "segment": name}, make)
        exported.append(cut(onnx.load_from_string(files["model.onnx"]), segment, names))
    return exported


def calibration_seconds(with_file: bool) -> dict[str, float]:
    """The further stages of a precision that has a calibration."""
    read = [READ_CHECK_SET, *([READ_CALIBRATION] if with_file else [])]
    return {**{title: READ_S for title, _ in read}, CALIBRATE[0]: CALIBRATE_S}


def plan_digest(exported: Sequence[Exported]) -> str:
    """SHA-256 of what the parts take from one another, which depends on where the graphs are cut."""
    return digest_of({"plan": [asdict(part.plan) for each in exported for part in each.parts]})


def lower_all(
    work: Work,
    key: dict[str, Any],
    exported: Sequence[Exported],
    precision: str,
    target: str,
    calibration: Calibration | None = None,
) -> tuple[list[Part], list[Parity]]:
    """The parts in the given precision, and how they compare with PyTorch."""

    def make() -> dict[str, bytes]:
        parts = lower_parts(
            [part for each in exported for part in each.parts], precision, target, calibration=calibration
        )
        found = [asdict(parity) for parity in compare_all(exported, parts, calibration)]
        return {**parts_to_files(parts), PARITIES: json.dumps(found).encode()}

    key = {**key, "precision": precision, "target": target, "plan": plan_digest(exported)}
    if calibration is not None:
        key["calibration"] = calibration.record
    files = work.once(LOWER, "lower", key, make)
    return parts_from_files(files), [Parity(**parity) for parity in json.loads(files[PARITIES])]
