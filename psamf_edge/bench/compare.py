"""Two runs side by side: ratios of their percentiles, and what else differs between them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from psamf_edge.bench.record import Record
from psamf_edge.bench.series import PERCENTILES, Series, ratio, summary
from psamf_edge.bench.tables import Table, figure
from psamf_edge.errors import InputError

SCHEMA = "psamf-edge-bench-compare/1"
MATTERS = {  # what has to be alike for a ratio to speak of one thing
    "machine": ("cpu", "cores", "gpus", "board", "power_mode", "system"),
    "clip": ("sha256",),
    "settings": ("text", "device", "threads", "warmup"),
}
OF_MODEL = ("precision", "target", "backend", "manifest_sha256")


def compare(a: Record, b: Record) -> tuple[list[tuple[str, Series, Series]], list[str]]:
    """Pairs of the same quantity with the model's label, and a sentence for each thing that differs.

    Models are paired by label; where each run has one only, those two are compared, whatever they are called.

    Raises:
        InputError: nothing can be compared.
    """
    labels = _paired_models(a, b)
    theirs = {each.key: each for each in b.series}
    pairs = []
    for each in a.series:
        label, other = labels.get(each.model, (each.model, each.model))  # idle power is of no model
        match = theirs.get((other, each.group, each.name))
        if match is not None and match.unit == each.unit:
            pairs.append((label, each, match))
    if not pairs:
        raise InputError(
            f"The two runs have nothing in common: one has the models {', '.join(a.models)}, the other"
            f" {', '.join(b.models)}; measure both with the same --bundle."
        )
    left = len(a.series) + len(b.series) - 2 * len(pairs)
    remarks = differences(a, b, labels)
    if left:
        remarks.append(f"{left} series are in one run only.")
    return pairs, remarks


def differences(a: Record, b: Record, labels: Mapping[str, tuple[str, str]]) -> list[str]:
    """What differs in machine, versions, clip, settings and models."""
    found = []
    for part, names in MATTERS.items():
        ours, theirs = getattr(a, part), getattr(b, part)
        found += [_differ(f"{part} {name}", ours.get(name), theirs.get(name)) for name in names]
    ours, theirs = a.machine.get("versions") or {}, b.machine.get("versions") or {}
    found += [_differ(f"version of {name}", ours.get(name), theirs.get(name)) for name in {**ours, **theirs}]
    for mine, (label, other) in labels.items():
        ours, theirs = a.models.get(mine, {}), b.models.get(other, {})
        found += [_differ(f"{label}, {name}", ours.get(name), theirs.get(name)) for name in OF_MODEL]
    return [sentence for sentence in found if sentence]


def as_table(pairs: list[tuple[str, Series, Series]]) -> Table:
    """A row for each quantity: both medians, and B over A for each percentile, with an interval for the median."""
    several = len({label for label, _, _ in pairs}) > 1
    header = ["B / A", *(["bundle"] if several else []), "A p50", "B p50", "unit", "p50 [95 %]"]
    header += [f"p{q}" for q in PERCENTILES[1:]]
    rows = []
    for label, a, b in pairs:
        first, second = summary(a.samples), summary(b.samples)
        median = ratio(b.samples, a.samples)
        tails = [_over(second[f"p{q}"], first[f"p{q}"]) if min(first["n"], second["n"]) > 1 else ""
                 for q in PERCENTILES[1:]]  # fmt: skip
        medians = [figure(first["p50"]), figure(second["p50"]), a.unit, str(median or "")]
        rows.append([f"{a.group}: {a.name}", *([label] if several else []), *medians, *tails])
    return Table(header, rows)


def as_json(a: Record, b: Record, pairs: list[tuple[str, Series, Series]], remarks: list[str]) -> str:
    """The ratios as a document."""
    rows = []
    for label, first, second in pairs:
        ours, theirs = summary(first.samples), summary(second.samples)
        median = ratio(second.samples, first.samples)
        rows.append({
            "model": label, "group": first.group, "name": first.name, "unit": first.unit, "a": ours, "b": theirs,
            "ratio": None if median is None else {"p50": median.value, "low": median.low, "high": median.high},
        })  # fmt: skip
    document = {"schema": SCHEMA, "a": a.taken, "b": b.taken, "differences": remarks, "ratios": rows}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _paired_models(a: Record, b: Record) -> dict[str, tuple[str, str]]:
    """A's label to the label to show and B's."""
    if len(a.models) == len(b.models) == 1:
        (ours,), (theirs,) = a.models, b.models
        return {ours: (ours if ours == theirs else f"{ours} / {theirs}", theirs)}
    return {label: (label, label) for label in a.models if label in b.models}


def _differ(what: str, ours: Any, theirs: Any) -> str | None:
    if ours == theirs:
        return None
    return f"{what} differs: {_said(ours)} in A, {_said(theirs)} in B."


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)[:80]


def _over(b: float, a: float) -> str:
    return f"{b / a:.3g}" if a > 0 else ""
