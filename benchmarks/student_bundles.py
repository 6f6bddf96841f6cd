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
from benchmarks.collection import BUNDLES, LATENCY, WEIGHTS, weights_key
from benchmarks.measure import machine, summary, take_turns
from benchmarks.tables import METRICS
from benchmarks.training_runs import claim, read_json
from benchmarks.validation_sets import ValidationSet
from psamf_edge.analyzer import Analyzer
from psamf_edge.backends import open_backend
from psamf_edge.bundle import Bundle, open_bundle
from psamf_edge.compile.command import PRECISIONS, compile_bundle
from psamf_edge.compile.files import atomic
from psamf_edge.compile.quality.bounds import Bounds, Quality

ROUNDS = 40  # of one call of every bundle: the median of forty moves by a few hundredths between two runs
TIMED = PRECISIONS["cpu"]
# nothing is past them, from -3 to 3: the table says what a precision costs, also where `compile` would refuse it
NO_BOUND = Quality(Bounds(mae=6.0, acc2=1.0, gap=6.0, worst=6.0))


def measure_run(folder: Path, sets: list[ValidationSet], keep: bool) -> None:
    """Compile a trained student to every precision and score the sentences with it, unless that is done with the very
    weights that the run has, or another process is at it.

    Args:
        folder: of the run.
        sets: what is scored.
        keep: the bundles, for time_sizes; they are a hundred megabytes each.
    """
    with claim(folder) as mine:
        if mine and not is_measured(folder):
            _measure(folder, sets)
        if mine and not keep:
            for precision in TIMED:
                shutil.rmtree(bundle_path(folder, precision), ignore_errors=True)


def _measure(folder: Path, sets: list[ValidationSet]) -> None:
    table = {WEIGHTS: weights_key(folder)}
    for precision in TIMED:
        output = bundle_path(folder, precision)
        bundle = compile_bundle(folder, output, "cpu", precision, force=True, quality=NO_BOUND)
        table[precision] = measure_bundle(bundle, sets)
        print(f"{folder} {precision}: {json.dumps(table[precision])}", file=sys.stderr)
    with atomic(folder / BUNDLES) as new:
        new.write_text(json.dumps(table, indent=2) + "\n")


def is_measured(folder: Path) -> bool:
    """Whether a run's figures are there and are known to be of its weights."""
    path, key = folder / BUNDLES, weights_key(folder)
    return key is not None and path.is_file() and read_json(path).get(WEIGHTS) == key


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

    Nothing is timed anew where the last time was of bundles of the same weights.

    Args:
        runs: the folder of one run of each row; those not measured yet are left out.
    """
    measured = {name: folder for name, folder in runs.items() if is_measured(folder)}
    bundles = {f"{name} {precision}": bundle_path(folder, precision) for name, folder in measured.items()
               for precision in TIMED}  # fmt: skip
    path, weights = table / LATENCY, {name: weights_key(folder) for name, folder in measured.items()}
    had = read_json(path) if path.is_file() else {}
    if not bundles or (had.get(WEIGHTS), list(had.get("latency_ms", {}))) == (weights, list(bundles)):
        return
    times = time_bundles({name: open_bundle(bundle) for name, bundle in bundles.items()}, ROUNDS)
    table.mkdir(parents=True, exist_ok=True)
    with atomic(path) as new:
        new.write_text(json.dumps({"machine": machine(), WEIGHTS: weights, "latency_ms": times}, indent=2) + "\n")


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
