"""What one run of the benchmark found, and its file: JSON of the schema psamf-edge-bench/1 with every raw sample."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from psamf_edge.bench.series import DIGITS, Series, summary
from psamf_edge.errors import InputError
from psamf_edge.report.escape import encodable

SCHEMA = "psamf-edge-bench/1"  # described by schema.json beside this file
MAX_BYTES = 64 << 20  # ours are some tens of kilobytes; a hundred thousand rounds fit


@dataclass(frozen=True)
class Record:
    """One run.

    Args:
        taken: when, as ISO 8601 in UTC.
        machine: as `describe_machine` gives it.
        settings: the options of the run.
        clip: name, sha256, duration_ms, utterances.
        models: by label: name, target, precision, backend, manifest_sha256, size_mb, note, score.
        conditions: "before" and "after", and "elapsed_s" between the two.
        notes: what was not measured, and why.
        warnings: where the figures mislead.
        series: every sample.
    """

    taken: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    clip: dict[str, Any]
    models: dict[str, dict[str, Any]]
    conditions: dict[str, Any]
    notes: list[str]
    warnings: list[str]
    series: list[Series]

    def to_json(self) -> str:
        """The document, with a summary beside the samples of each series."""
        head = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "series"}
        series = [
            asdict(each)
            | {"samples": [round(x, DIGITS) for x in each.samples], "summary": summary(each.samples)}
            for each in self.series
        ]  # fmt: skip
        document = {"schema": SCHEMA, **_encodable(head), "series": series}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"


def read_record(path: Path) -> Record:
    """Read a file that `psamf-edge bench -o` wrote.

    Raises:
        InputError: it cannot be read, is of another schema, or is damaged.
    """
    document = _load(path)
    schema = document.get("schema")
    if schema != SCHEMA:
        raise InputError(
            f"{path} has the schema {str(schema)[:40]!r}, and this version of psamf-edge compares {SCHEMA!r}: give two"
            " files that `psamf-edge bench -o` wrote."
        )
    kinds = {"taken": str, "notes": list, "warnings": list, "series": list}
    values = {field.name: document.get(field.name) for field in fields(Record)}
    for name, value in values.items():
        if not isinstance(value, kinds.get(name, dict)):
            raise InputError(f"{path} has no valid {name!r}: measure again with `psamf-edge bench -o`.")
    values["series"] = [_series(path, entry) for entry in values["series"]]
    if not all(isinstance(model, dict) for model in values["models"].values()):
        raise InputError(f"{path} has no valid 'models': measure again with `psamf-edge bench -o`.")
    return Record(**values)


def _load(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB, which no benchmark is.")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); give a file that `psamf-edge bench -o` wrote."
        ) from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds no JSON object; give a file that `psamf-edge bench -o` wrote.")
    return document


def _series(path: Path, entry: Any) -> Series:
    names = ("model", "group", "name", "unit")
    samples = entry.get("samples") if isinstance(entry, dict) else None
    good = isinstance(samples, list) and samples and all(isinstance(entry.get(name), str) for name in names)
    if not good or not all(type(x) in (int, float) and math.isfinite(x) for x in samples):
        raise InputError(f"{path} has a series without names or without finite samples: measure again.")
    return Series(*(entry[name] for name in names), tuple(map(float, samples)))


def _encodable(value: Any) -> Any:
    """File names that are not UTF-8 cannot stay as they are."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(str(key)): _encodable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(each) for each in value]
    return value
