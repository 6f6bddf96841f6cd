"""The spread of a recipe over its seeds: python -m benchmarks.seeds --data DATA RUN [RUN ...]

RUN is a folder that `psamf-edge distill` or `train student` wrote; the folders must differ in the seed alone.
Each is compiled to int8 and fp32 and measured through the public `Analyzer`, as benchmarks.accuracy measures one
bundle; composed samples are taken from the weights' training records. Writes results/seeds.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.accuracy import measure
from benchmarks.collection import alike, spread_of
from benchmarks.measure import machine, save
from benchmarks.tables import METRICS, seeds
from benchmarks.training_runs import RECORD, read_json
from benchmarks.validation_sets import ValidationSet, validation_sets
from psamf_edge.compile.command import PRECISIONS, compile_bundle
from psamf_edge.errors import PsamfError

KEPT = (*METRICS, "sign_accuracy", "found")


def figures(table: dict[str, dict]) -> dict[str, dict]:
    """Of each set the measures that are reported, and how many samples they are of."""
    return {
        name: {key: values[key] for key in KEPT if key in values} | {"samples": values["n"]}
        for name, values in table.items()
        if name != "model"
    }


def measure_run(run: Path, sets: list[ValidationSet]) -> dict[str, dict]:
    """Every set by precision, of one run compiled."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            precision: figures(
                measure(compile_bundle(run, Path(folder) / f"{precision}.psamf", "cpu", precision).path, sets)
            )
            for precision in PRECISIONS["cpu"]
        }


def gather(runs: list[Path], sets: list[ValidationSet], jobs: int = 1) -> dict:
    """Means and deviations over the runs, and what each of them gave. `jobs` of them are measured at a time.

    Raises:
        UsageError: they differ in more than the seed, or one has no record of its training.
    """
    records = [read_json(run / RECORD) for run in runs]
    settings = [{name: value for name, value in one["settings"].items() if name != "seed"} for one in records]
    alike(runs, "settings", settings)
    alike(runs, "data", [one["data"] for one in records])
    if jobs == 1:
        each = [measure_run(run, sets) for run in runs]
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:  # a fork would take ONNX Runtime's threads along
            each = list(pool.map(measure_run, runs, [sets] * len(runs)))
    composed = [figures({k: v for k, v in one["metrics"].items() if k.startswith("composed ")}) for one in records]
    return {
        "machine": machine(),
        "command": records[0]["command"],
        "data": records[0]["data"],
        "settings": settings[0],
        "seeds": [one["settings"]["seed"] for one in records],
        "bundles": spread_of(each),
        "composed": spread_of(composed),
        "each": each,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="weights of one seed")
    parser.add_argument("--data", type=Path, required=True, help="folder with mosi/, mosei/, speech/ and faces/")
    parser.add_argument("--pictures", type=int, default=3589, help="how many FER2013 validation pictures to take")
    parser.add_argument("--jobs", type=int, default=2, help="runs that are measured at a time (2)")
    parser.add_argument("--output", type=Path, help="where to write (results/seeds.json)")
    given = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            record = gather(given.runs, validation_sets(given.data, Path(folder), given.pictures), given.jobs)
    except PsamfError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    save("seeds", record, given.output)
    print(seeds(record))


if __name__ == "__main__":
    main()
