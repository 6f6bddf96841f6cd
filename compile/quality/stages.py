"""The gate as stages of a compile: read the data, judge, and where a bound is broken search and mend, or refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from psamf_edge.cli.files import write_file
from psamf_edge.compile.export.lowering import Exported
from psamf_edge.compile.export.onnx_export import Parity
from psamf_edge.compile.export.part_files import parts_from_files, parts_to_files
from psamf_edge.compile.export.partition import Part
from psamf_edge.compile.quality.bounds import PrecisionError, Quality
from psamf_edge.compile.quality.comparison import Comparison
from psamf_edge.compile.quality.data_stage import read_data
from psamf_edge.compile.quality.gate import (
    Gate,
    Judgement,
    comparison_lines,
    gate_record,
    kept_precision,
)
from psamf_edge.compile.quality.report import write_report
from psamf_edge.compile.quality.sensitivity import Blame
from psamf_edge.compile.quantisation.calibration import Calibration
from psamf_edge.compile.source import Source
from psamf_edge.compile.stages import JUDGE, READ, plan_digest
from psamf_edge.compile.work import Work

SEARCH, MEND = "search for the layers to blame", "keep layers in a higher precision"
JUDGEMENT = "judgement.json"
Log = Callable[[str], None]


@dataclass(frozen=True)
class Checked:
    """What goes into the bundle. record: for the manifest."""

    parts: list[Part]
    parities: list[Parity]
    record: dict[str, Any]


class GateStages:
    """The gate of one compile.

    Args:
        work: keeps what is finished.
        key: what the lowered parts depend on.
        source: the model.
        exported: its segments in float32.
        how: precision and target.
        quality: data, bounds and what to do past them.
        name: of the bundle, for the report.
        log: takes lines.
        calibration: of a precision that has one.
    """

    def __init__(
        self,
        work: Work,
        key: dict[str, Any],
        source: Source,
        exported: Sequence[Exported],
        how: tuple[str, str],
        quality: Quality,
        name: str,
        log: Log,
        calibration: Calibration | None = None,
    ) -> None:
        self._calibration = calibration
        self._work, self._source, self._exported, self._how = work, source, exported, how
        self._quality, self._name, self._log = quality, name, log
        self._samples, self._data = read_data(work, (READ, "data"), source, quality.validate, log)
        self._key = {
            **key,
            "how": how,
            "plan": plan_digest(exported),
            "data": asdict(self._data),
            "bounds": asdict(quality.bounds),
        }
        if calibration is not None:
            self._key["calibration"] = calibration.record

    def run(self, parts: list[Part], parities: list[Parity]) -> Checked:
        """Judge the lowered parts, and mend them where that is asked for.

        Raises:
            PrecisionError: they are past a bound.
        """
        files = self._work.once(JUDGE, "judge", self._key, lambda: _to_files(self._gate().judge(parts, parities)))
        first = last = _from_files(files, parts)
        for line in comparison_lines(first.comparison, self._data):
            self._log(f"    {line}")
        found: list[Blame] = []
        kept: list[Blame] = []
        if first.broken:
            for sentence in first.broken:
                self._log(f"    {sentence}")
            found = self._search()
            if self._quality.mixed:
                last, kept = self._mend(found)
        self._report(first, last, found, kept)
        if last.broken:
            raise PrecisionError(self._refusal(last, kept))
        higher = kept_precision(*self._how)
        record = gate_record(self._data, self._quality.bounds, last.comparison, kept, higher)
        return Checked(last.parts, last.parities, record)

    def _gate(self) -> Gate:
        return Gate(
            self._exported, self._source.shapes, self._samples, *self._how, self._quality.bounds, self._calibration
        )

    def _search(self) -> list[Blame]:
        def make() -> dict[str, bytes]:
            found = self._gate().search(lambda row: self._log(f"    {row}"))
            return {"blames.json": json.dumps([asdict(blame) for blame in found]).encode()}

        files = self._work.once(SEARCH, "search", self._key, make)
        return [Blame(**{**raw, "nodes": tuple(raw["nodes"])}) for raw in json.loads(files["blames.json"])]

    def _mend(self, found: list[Blame]) -> tuple[Judgement, list[Blame]]:
        def make() -> dict[str, bytes]:
            judgement, kept = self._gate().mend(found, lambda line: self._log(f"    {line}"))
            numbers = json.dumps([found.index(blame) for blame in kept])
            return {**parts_to_files(judgement.parts), **_to_files(judgement), "kept.json": numbers.encode()}

        files = self._work.once(MEND, "mend", self._key, make)
        judgement = _from_files(files, parts_from_files(files))
        kept = [found[number] for number in json.loads(files["kept.json"])]
        for line in comparison_lines(judgement.comparison, self._data):
            self._log(f"    {line}")
        if kept:
            names = ", ".join(f"{blame.part} {blame.layer or ''}".strip() for blame in kept)
            self._log(f"    in {kept_precision(*self._how)}: {names}")
        return judgement, kept

    def _report(self, first: Judgement, last: Judgement, found: list[Blame], kept: list[Blame]) -> None:
        if self._quality.report is not None:
            page = write_report(
                self._name,
                *self._how,
                self._data,
                self._quality.bounds,
                self._samples,
                first,
                last,
                found,
                kept,
                kept_precision(*self._how),
            )
            write_file(self._quality.report, page)
            self._log(f"    report: {self._quality.report}")

    def _refusal(self, last: Judgement, kept: list[Blame]) -> str:
        precision, target = self._how
        what = f"{self._name} in {precision} for {target} is too far from float32: {'; '.join(last.broken)}."
        if kept:
            how = (
                f"Keeping all its layers in {kept_precision(precision, target)} did not help: take a higher --precision"
            )
        elif self._quality.mixed:
            how = "No layer of it changes the scores by itself, so that none was kept: take a higher --precision"
        else:
            how = (
                "Run again with --mixed to keep the layers to blame in a higher precision, or take a higher --precision"
            )
        return f"{what} Nothing was written. {how}, or allow more; the finished stages are kept in {self._work.folder}."


def _to_files(judgement: Judgement) -> dict[str, bytes]:
    raw = {
        "parities": [asdict(parity) for parity in judgement.parities],
        "comparison": asdict(judgement.comparison),
        "broken": judgement.broken,
        "exact": judgement.exact.tolist(),
        "lowered": judgement.lowered.tolist(),
    }
    return {JUDGEMENT: json.dumps(raw).encode()}  # Python's own NaN and Infinity: it is read by the same code


def _from_files(files: dict[str, bytes], parts: list[Part]) -> Judgement:
    raw = json.loads(files[JUDGEMENT])
    return Judgement(
        parts,
        [Parity(**parity) for parity in raw["parities"]],
        Comparison(**raw["comparison"]),
        raw["broken"],
        np.array(raw["exact"]),
        np.array(raw["lowered"]),
    )
