"""Run folders to rows of means and deviations over seeds: what results/ablations.json holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from benchmarks.tables import METRICS
from benchmarks.training_runs import NOTE, minutes_of, read_json, table_folder, table_name
from benchmarks.variants import CORPORA, TABLES, Variant
from psamf_edge.compile.distillation.library import key_of as key_of_files
from psamf_edge.compile.training.record import RECORD
from psamf_edge.compile.training.validation import SUBSETS
from psamf_edge.errors import UsageError

BUNDLES, LATENCY = "bundles.json", "latency.json"  # what student_bundles.py measures, of a run and of all sizes
WEIGHTS = "weights"  # in both: the key of the weights that the figures are of
NOT_RECORDED = "not recorded"


def collect(runs: Path) -> list[dict]:
    """A row for everything under `runs` that has at least one finished run, in the order of the tables."""
    return [
        row
        for corpora in CORPORA
        for variants in TABLES.values()
        for variant in variants
        if (row := row_of(runs, variant, corpora))
    ]


def row_of(runs: Path, variant: Variant, corpora: str) -> dict | None:
    """One row from the folders of its seeds, or None if none is finished.

    Raises:
        UsageError: a record cannot be read or is of another row, or the seeds differ in more than the seed.
    """
    parent = table_folder(runs, variant, corpora)
    folders = sorted(parent.glob("*"), key=lambda path: (len(path.name), path.name)) if parent.is_dir() else []
    folders = [path for path in folders if path.name.isdecimal() and (path / RECORD).is_file()]
    if not folders:
        return None
    records = [read_json(path / RECORD) for path in folders]
    notes = [read_json(path / NOTE) if (path / NOTE).is_file() else {} for path in folders]
    settings = [{k: v for k, v in record["settings"].items() if k != "seed"} for record in records]
    encoders = [note.get("encoder", NOT_RECORDED) for note in notes]
    if variant.same_as and differs(variant, settings[0]):
        return None  # the other row has been trained with a setting of its own
    for folder, one in zip(folders, settings, strict=True):
        for name in differs(variant, one):
            raise UsageError(f"{folder} is no run of the row {variant.name}: its {name} is {one.get(name)!r}.")
    shared = set.intersection(*map(set, settings))  # a setting may be younger than the first seed's run
    alike(folders, "settings", [{name: one[name] for name in shared} for one in settings])
    alike(folders, "text encoder", encoders)
    alike(folders, "data", [record["data"] for record in records])
    minutes = [value for path in folders if (value := minutes_of(path)) is not None]
    row = {
        "table": variant.table,
        "name": variant.name,
        "title": variant.title,
        "corpora": corpora,
        "encoder": encoders[0],
        "data": records[0]["data"],
        "n": len(folders),
        "seeds": [int(path.name) for path in folders],
        "metrics": spread_of([only(by_corpus(record["metrics"]), variant.subsets) for record in records]),
        "alone": spread_of([alone(record["metrics"]) for record in records]),
        "minutes": round(float(np.median(minutes)), 1) if minutes else None,
        "settings": settings[-1],
        "versions": [dict(items) for items in sorted({tuple(record["versions"].items()) for record in records})],
        "machines": sorted({note["machine"]["cpu"] for note in notes if "machine" in note}),
        "dates": sorted({record["date"] for record in records}),
    }
    if variant.table == "students" and (measured := bundles_of(folders)):
        row["bundles"] = measured
        latency = runs / table_name(variant.table, corpora) / LATENCY
        times = read_json(latency) if latency.is_file() else None
        if times and still_of(times.get(WEIGHTS, {}).get(variant.name), parent / "0"):  # the seed that is timed
            row["latency_machine"] = times["machine"]
            for precision, values in measured.items():
                values["latency_ms"] = times["latency_ms"].get(f"{variant.name} {precision}")
    return row


def differs(variant: Variant, settings: dict) -> list[str]:
    """Those of the row's own settings that a run was not trained with."""
    return [name for name, value in variant.changes.items() if settings.get(name) != value]


def alike(folders: list[Path], what: str, values: list) -> None:
    """Raise UsageError unless all seeds of a row have the same."""
    for folder, value in zip(folders, values, strict=True):
        if value != values[0]:
            raise UsageError(
                f"{folder} and {folders[0]} differ in {what}: seeds of one row must differ in the seed alone."
            )


def by_corpus(metrics: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """Metrics of each subset of modalities by corpus, from the names that teachers and students give them.

    "mosi all" is a teacher's, "composed mosi all" a student's; "text mosi", real words alone, is what a student says of
    "composed mosi text" as well.
    """
    found: dict[str, dict[str, dict]] = {}
    for name, values in sorted(metrics.items()):  # "composed" before "text"
        first, _, second = name.removeprefix("composed ").partition(" ")
        corpus, subset = (second, first) if first == "text" else (first, second)
        if subset in SUBSETS and corpus in CORPORA:
            found.setdefault(corpus, {})[subset] = {key: values[key] for key in METRICS} | {"samples": values["n"]}
    return found


def only(corpora: dict[str, dict[str, dict]], subsets: Iterable[str]) -> dict[str, dict[str, dict]]:
    """The subsets of modalities that a row is judged on, in the order of SUBSETS."""
    return {
        corpus: {name: table[name] for name in SUBSETS if name in subsets and name in table}
        for corpus, table in corpora.items()
    }


def alone(metrics: dict[str, dict]) -> dict[str, float]:
    """Accuracy of the valence sign on real voices and faces, which students alone are asked for."""
    return {name: values["sign_accuracy"] for name, values in sorted(metrics.items()) if "sign_accuracy" in values}


def bundles_of(folders: list[Path]) -> dict[str, dict]:
    """Of each precision the metrics of words by corpus, through the Analyzer, and the size."""
    found = [(path, read_json(path / BUNDLES)) for path in folders if (path / BUNDLES).is_file()]
    measured = [tables for path, tables in found if still_of(tables.pop(WEIGHTS, None), path)]
    if not measured:
        return {}
    return {
        precision: {
            "n": len(measured),
            "size_mb": measured[0][precision]["size_mb"],
            "metrics": spread_of([one[precision]["metrics"] for one in measured]),
        }
        for precision in measured[0]
    }


def weights_key(folder: Path) -> str | None:
    """Of the weights that a run has; None where it has none any more."""
    weights = folder / "student.safetensors"
    return key_of_files([weights]) if weights.is_file() else None


def still_of(key: str | None, folder: Path) -> bool:
    """Whether figures with this key are of the weights that a run has. Older figures have no key, and weights may be
    gone: then nothing speaks against the figures.
    """
    return key is None or weights_key(folder) in (None, key)


def spread_of(values: list) -> dict | None:
    """Trees of the same shape to one, with mean and standard deviation at its leaves.

    The deviation is the sample's (n - 1), None for one value. A leaf that one seed does not define is None; `samples`
    stays a number.
    """
    if isinstance(values[0], dict):
        return {
            key: values[0][key] if key == "samples" else spread_of([value[key] for value in values])
            for key in values[0]
        }
    if any(value is None for value in values):
        return None
    deviation = round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None
    return {"mean": round(float(np.mean(values)), 4), "sd": deviation}


def merge(old: list[dict], new: list[dict], say: Callable[[str], None]) -> list[dict]:
    """The rows of a result file with those just collected in their place. A row of fewer seeds replaces none of more:
    run folders get lost, results need not.
    """
    rows = {key_of(row): row for row in old}
    for row in new:
        kept = rows.get(key_of(row))
        if kept and kept["n"] > row["n"]:
            say(f"{'/'.join(key_of(row))}: the results of {kept['n']} seeds stay, {row['n']} are here")
        else:
            rows[key_of(row)] = row
    order = [(corpora, v.table, v.name) for corpora in CORPORA for variants in TABLES.values() for v in variants]
    return sorted(rows.values(), key=lambda row: order.index(key_of(row)) if key_of(row) in order else len(order))


def key_of(row: dict) -> tuple[str, str, str]:
    """What a row is known by."""
    return row["corpora"], row["table"], row["name"]
