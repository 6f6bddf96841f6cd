"""Students of several sizes, compiled: accuracy through the Analyzer, size, and latency side by side."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.accuracy import evaluate
from benchmarks.clip_latency import utterance
from benchmarks.collection import BUNDLES, LATENCY
from benchmarks.measure import machine, summary, take_turns
from benchmarks.tables import METRICS
from benchmarks.training_runs import RECORD, claim
from benchmarks.validation_sets import ValidationSet
from psamf_edge.analyzer import Analyzer
from psamf_edge.backends import open_backend
from psamf_edge.bundle import Bundle, open_bundle
from psamf_edge.compile.command import PRECISIONS, compile_bundle
from psamf_edge.compile.files import atomic

ROUNDS = 40  # of one call of every bundle: the median of forty moves by a few hundredths between two runs
TIMED = PRECISIONS["cpu"]


def measure_run(folder: Path, sets: list[ValidationSet]) -> None:
    """Compile a trained student to every precision and score the sentences with it, unless that is done."""
    with claim(folder) as mine:
        if not mine or (folder / BUNDLES).is_file():
            return
        table = {}
        for precision in TIMED:
            bundle = compile_bundle(folder, bundle_path(folder, precision), "cpu", precision, force=True)
            table[precision] = measure_bundle(bundle, sets)
            print(f"{folder} {precision}: {json.dumps(table[precision])}", file=sys.stderr)
        with atomic(folder / BUNDLES) as new:
            new.write_text(json.dumps(table, indent=2) + "\n")


def bundle_path(folder: Path, precision: str) -> Path:
    """Where a run keeps its bundle."""
    return folder / f"{precision}.psamf"


def measure_bundle(bundle: Bundle, sets: list[ValidationSet]) -> dict:
    """Size, face models and vocabulary included, and the field's metrics by corpus as a user gets them."""
    with Analyzer(bundle.path, device="cpu") as analyzer:
        scored = {samples.name.removeprefix("text "): evaluate(analyzer, samples) for samples in sets}
    metrics = {
        corpus: {key: values[key] for key in METRICS} | {"samples": values["n"]} for corpus, values in scored.items()
    }
    return {"size_mb": round(sum(entry.size for entry in bundle.files.values()) / 1e6, 2), "metrics": metrics}


def time_sizes(runs: dict[str, Path], table: Path) -> None:
    """Time the bundles of one run of each size, taking turns, and write it into the table's folder.

    Nothing is timed anew where the last time was of the same bundles.

    Args:
        runs: the folder of one run of each row; those not measured yet are left out.
    """
    measured = {name: folder for name, folder in runs.items() if (folder / BUNDLES).is_file()}
    bundles = {f"{name} {precision}": bundle_path(folder, precision) for name, folder in measured.items()
               for precision in TIMED}  # fmt: skip
    path = table / LATENCY
    if not bundles or (path.is_file() and list(json.loads(path.read_text())["latency_ms"]) == list(bundles)):
        return
    times = time_bundles({name: open_bundle(bundle) for name, bundle in bundles.items()}, ROUNDS)
    table.mkdir(parents=True, exist_ok=True)
    with atomic(path) as new:
        new.write_text(json.dumps({"machine": machine(), "latency_ms": times}, indent=2) + "\n")


def time_bundles(bundles: dict[str, Bundle], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the model for ten seconds of words, voice and face, on one thread."""
    with ExitStack() as stack:
        rivals = {}
        for name, bundle in bundles.items():
            backend = stack.enter_context(open_backend(bundle, "cpu", threads=1))
            features = utterance(bundle.shapes)
            features = replace(features, ids=features.ids % bundle.shapes.vocabulary)
            rivals[name] = lambda backend=backend, features=features: backend.run(features)
        return {name: summary(times) for name, times in take_turns(rivals, rounds).items()}


def remove_bundles(folder: Path) -> None:
    """Of a run that is measured and is not timed: a hundred megabytes each."""
    if (folder / RECORD).is_file():
        for precision in TIMED:
            shutil.rmtree(bundle_path(folder, precision), ignore_errors=True)
