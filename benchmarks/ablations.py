"""The tables of the model: python -m benchmarks.ablations --data DATA --bert BERT --personality DIR --runs RUNS

Trains every row with every seed and gathers means and deviations into results/ablations.json and results/students.svg.
That takes hours: stop it whenever you like and give the same command again, also in a second process with --threads 1.
--collect gathers what is there. The rows are in benchmarks/variants.py; the folders of their runs, in
benchmarks/training_runs.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import collection, curve, student_bundles, tables
from benchmarks.measure import RESULTS
from benchmarks.training_runs import Material, table_name, train
from benchmarks.validation_sets import validation_sets
from benchmarks.variants import CORPORA, TABLES, Variant, choose, parse_assignments
from psamf_edge.compile.command import DEFAULT_WEIGHTS
from psamf_edge.compile.files import atomic
from psamf_edge.errors import PsamfError, UsageError

NAME = "ablations"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def work(rows: list[Variant], seeds: int, material: Material) -> None:
    """Train the rows, one seed of all before the next of any, so that an unfinished table compares like with like.

    Raises:
        UsageError: a run was made or begun with other settings.
    """
    sets = []
    if any(row.table == "students" for row in rows):
        with tempfile.TemporaryDirectory() as empty:  # no picture is taken, so none is written
            sets = [s for s in validation_sets(material.data, Path(empty), 0) if s.modality == "text"]
            sets = [s for s in sets if material.corpora in (s.name.removeprefix("text "), "both")]
    for seed in range(seeds):
        for row in rows:
            done = train(row, seed, material, say)
            if done and row.table == "students":
                student_bundles.measure_run(material.folder(row, seed), sets, keep=seed == 0)  # which are timed
    if sets:
        sizes = {row.name: material.folder(row, 0) for row in TABLES["students"]}
        student_bundles.time_sizes(sizes, material.runs / table_name("students", material.corpora))


def gather(runs: Path, results: Path) -> list[dict]:
    """Put what is under `runs` into the results folder: ablations.json and students.svg. Returns all rows."""
    path = results / f"{NAME}.json"
    old = json.loads(path.read_text())["rows"] if path.is_file() else []
    rows = collection.merge(old, collection.collect(runs), say)
    with atomic(path) as new:
        new.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for corpora in reversed(CORPORA):  # the finalists' curve, if there is one
        students = [row for row in rows if (row["table"], row["corpora"]) == ("students", corpora)]
        if curve.plot(students, results / "students.svg"):
            break
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder of all runs; the same each time")
    parser.add_argument("--data", type=Path, help="folder with mosi/, mosei/, speech/ and faces/")
    parser.add_argument("--bert", help="text encoder: a BERT checkpoint directory, or a name on the Hugging Face hub")
    parser.add_argument("--encoder", help="what the tables call it (the last part of --bert)")
    parser.add_argument("--personality", type=Path, help="what `psamf-edge train personality` wrote")
    parser.add_argument("--parts", type=Path, default=DEFAULT_WEIGHTS, help="weights with face models and vocabulary")
    parser.add_argument("--table", choices=tuple(TABLES), help="one table only (all)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these rows only")
    parser.add_argument("--seeds", type=int, default=5, help="of each row (5)")
    parser.add_argument("--corpora", choices=CORPORA, default="mosi", help="sentences of every run (mosi)")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="GROUP.NAME=VALUE",
                        help="a setting of all rows, such as teacher.epochs=5 or student.text_epochs=2")  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--collect", action="store_true", help="train nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (benchmarks/results)")
    return parser.parse_args(arguments)


def run(chosen: argparse.Namespace) -> None:
    """What the command does.

    Raises:
        PsamfError: of any kind.
    """
    rows = choose(chosen.table, chosen.only)
    if not chosen.collect:
        missing = [f"--{name}" for name in ("data", "bert", "personality") if getattr(chosen, name) is None]
        if missing or chosen.seeds < 1:
            raise UsageError(f"Training needs {', '.join(missing) or '--seeds of 1 or more'}; --collect needs neither.")
        work(rows, chosen.seeds, Material(
            chosen.runs, chosen.data, chosen.bert, chosen.encoder or Path(chosen.bert).name, chosen.personality,
            chosen.parts, chosen.corpora, parse_assignments(chosen.assignments), chosen.device, chosen.threads,
        ))  # fmt: skip
    everything = gather(chosen.runs, chosen.results)
    for corpora in CORPORA:
        for table in TABLES:
            if text := tables.ablations(everything, table, corpora):
                print(f"## {table}\n\n{text}\n")


def main(arguments: list[str] | None = None) -> None:
    try:
        run(parse(arguments))
    except PsamfError as error:
        say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
