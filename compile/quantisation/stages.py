"""Calibration as stages of a compile: read the data, look at the activations, choose how each is quantised."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from psamf_edge.bundle import PlanSegment
from psamf_edge.compile.export.lowering import Exported
from psamf_edge.compile.quality.check_set import PRESENT
from psamf_edge.compile.quality.data_stage import DataRecord, read_data
from psamf_edge.compile.quality.plan_scorer import PlanScorer, Trace
from psamf_edge.compile.quantisation.calibration import Calibration
from psamf_edge.compile.quantisation.formats import FORMATS
from psamf_edge.compile.quantisation.observation import observe
from psamf_edge.compile.quantisation.ranges import Activation, Activations, choose
from psamf_edge.compile.source import Source
from psamf_edge.compile.stages import CALIBRATE, READ_CALIBRATION, READ_CHECK_SET
from psamf_edge.compile.work import Work, digest_of

MOST_SAMPLES = 256  # of a file: twice as many move no range by more than a few hundredths, and clips take a second each
METHOD = "smoothing and range with the least squared error of the products, for each activation"
TABLE, SMOOTHING = "activations.json", "smoothing.npz"
Log = Callable[[str], None]


def calibrate(
    work: Work,
    key: Mapping[str, Any],
    source: Source,
    exported: Sequence[Exported],
    precision: str,
    path: Path | None,
    log: Log,
) -> Calibration:
    """Calibrate a model in float32.

    The check set is always among the samples, since it holds every subset of modalities: a fusion that has met words
    alone has no range for a voice.

    Args:
        work: keeps what is finished.
        key: what the exported graphs depend on.
        source: the model.
        exported: its segments.
        precision: one of FORMATS.
        path: a CSV file of utterances; None: the check set alone, which is said.
        log: takes lines.
    """
    check_samples, check = read_data(work, READ_CHECK_SET, source, None, log)
    samples, records = check_samples, [check]
    if path is not None:
        given, record = read_data(work, READ_CALIBRATION, source, path, log, MOST_SAMPLES)
        samples, records = given + samples, [record, check]
    for line in _data_lines(records):
        log(f"    {line}")
    parts = [part for each in exported for part in each.parts]
    plan = [asdict(part.plan) for part in parts if isinstance(part.plan, PlanSegment)]
    data = [asdict(record) for record in records]

    def make() -> dict[str, bytes]:
        seen = observe(parts, source.shapes, samples, log)
        form = FORMATS[precision]
        found = {part: {name: choose(each, form) for name, each in tensors.items()} for part, tensors in seen.items()}
        return activations_to_files(found)

    key = {**key, "precision": precision, "plan": digest_of({"plan": plan}), "calibration": data}
    activations = activations_from_files(work.once(*CALIBRATE, key, make))
    count = sum(map(len, activations.values()))
    scorer, given_to = PlanScorer(parts, source.shapes), []
    scorer.scores(check_samples[: len(PRESENT)], given=given_to)
    inputs = {each.segment.plan.name: _inputs(each, given_to) for each in exported}
    return Calibration(activations, inputs, {"data": data, "method": METHOD, "activations": count})


def activations_to_files(activations: Activations) -> dict[str, bytes]:
    """A table, and the smoothing of every channel."""
    table, arrays = [], {}
    for part, tensors in activations.items():
        for name, each in tensors.items():
            if each.smoothing is not None:
                arrays[str(len(table))] = each.smoothing
            table.append([part, name, each.products, each.greatest])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return {TABLE: json.dumps(table).encode(), SMOOTHING: buffer.getvalue()}


def activations_from_files(files: Mapping[str, bytes]) -> Activations:
    """What `activations_to_files` was given."""
    activations: Activations = {}
    with np.load(io.BytesIO(files[SMOOTHING]), allow_pickle=False) as arrays:
        for number, (part, name, products, greatest) in enumerate(json.loads(files[TABLE])):
            each = Activation(tuple(products), greatest, arrays.get(str(number)))
            activations.setdefault(part, {})[name] = each
    return activations


def _inputs(exported: Exported, given: Trace) -> list[dict[str, np.ndarray]]:
    """What a segment reads, from what its parts were given for each sample; nothing where it did not run."""
    found = []
    for steps in given:
        tensors = {name: value for part in exported.parts for name, value in steps.get(part.plan.name, {}).items()}
        if all(name in tensors for name in exported.segment.shapes):
            found.append({name: tensors[name] for name in exported.segment.shapes})
    return found


def _data_lines(records: Sequence[DataRecord]) -> list[str]:
    names = " and ".join(f"{record.name} ({record.n} samples)" for record in records)
    lines = [f"calibrated on {names}"]
    if len(records) == 1:
        lines.append("no data of yours: --calibrate DATA.csv takes utterances like those that will be scored")
    return lines
