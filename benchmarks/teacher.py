"""How well the default's teacher reads, beside its student: python -m benchmarks.teacher TEACHER

Takes what the training of the teacher wrote down of itself at its end (log.csv). Words alone: which voices and faces
were composed with them depends on the version that trained it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

from benchmarks.measure import RESULTS, save

LOGGED, WORDS = "valid.mae.", " text"  # a corpus between them
PRECISION = 4  # digits


def last_errors(log: Path) -> tuple[int, dict[str, float]]:
    """The step of the last validation, and MAE on words by corpus, as "mosi text"."""
    rows = []
    with log.open(newline="") as file:
        for stage, step, name, value in csv.reader(file):
            if stage == "teacher" and name.startswith(LOGGED) and name.endswith(WORDS):
                rows.append((int(step), name.removeprefix(LOGGED), float(value)))
    if not rows:
        sys.exit(f"{log} has no validation of a teacher; give the folder that `psamf-edge train teacher` wrote.")
    last = max(step for step, _, _ in rows)
    return last, {name: round(value, PRECISION) for step, name, value in rows if step == last}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", type=Path, help="folder that `psamf-edge train teacher` wrote")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (benchmarks/results)")
    chosen = parser.parse_args(arguments)
    step, errors = last_errors(chosen.teacher / "log.csv")
    sizes = json.loads((chosen.teacher / "teacher.json").read_text())
    path = save("teacher", {"step": step, "sizes": sizes, "mae": errors}, chosen.results / "teacher.json")
    print(json.dumps(errors), f"written to {path}", sep="\n")


if __name__ == "__main__":
    main()
