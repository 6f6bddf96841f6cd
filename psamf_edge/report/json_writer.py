"""JSON: one object a clip and a line (JSON Lines), described by schema.json beside this file.

One clip is therefore one JSON document, and the output of many can be read as a stream. The output is pure ASCII.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from psamf_edge.report.escape import encodable
from psamf_edge.report.wording import rounded
from psamf_edge.result import MODALITIES, SCHEMA, Result, Segment


def write_json(results: Sequence[Result]) -> str:
    """Nothing is lost but digits after the fourth decimal, and bytes of file names that are not UTF-8."""
    return "".join(json.dumps(as_dict(result), allow_nan=False) + "\n" for result in results)


def as_dict(result: Result) -> dict:
    """The object of the schema psamf-edge/1, made of plain Python types."""
    return {
        "schema": SCHEMA,
        "clip": encodable(result.clip),
        "sha256": result.sha256,
        "duration_ms": int(result.duration_ms),
        "model": {
            "name": encodable(result.model.name),
            "manifest_sha256": result.model.manifest_sha256,
            "backend": result.model.backend,
            "precision": result.model.precision,
        },
        "score": rounded(result.score),
        "label": result.label,
        "segments": [_segment(segment) for segment in result.segments],
        "timing_ms": {stage: rounded(ms) for stage, ms in result.timing_ms.items()},
        "warnings": [encodable(warning) for warning in result.warnings],
    }


def _segment(segment: Segment) -> dict:
    return {
        "start_ms": int(segment.start_ms),
        "end_ms": int(segment.end_ms),
        "text": None if segment.text is None else encodable(segment.text),
        "score": rounded(segment.score),
        "label": segment.label,
        "confidence": rounded(segment.confidence),
        "modalities": {
            name: {
                "state": segment.modalities[name].state,
                "contribution": rounded(segment.modalities[name].contribution),
            }
            for name in MODALITIES
        },
    }
