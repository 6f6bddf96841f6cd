"""Validation accuracy of a bundle as its user gets it: python -m benchmarks.accuracy --data DATA [--bundle B ...]

Each sentence, recording and picture goes through the public `Analyzer`, as `psamf-edge evaluate` would take it. Words
alone are MOSI's and MOSEI's validation splits; voice alone the recordings of speakers not trained on; face alone
FER2013's validation pictures, enlarged and put into larger PNG files, in which the face has to be found. Composed
samples are in the weights' training.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, save
from benchmarks.validation_sets import ValidationSet, validation_sets
from psamf_edge.analyzer import Analyzer
from psamf_edge.compile.training.validation import sign_accuracy
from psamf_edge.metrics import evaluate_scores


def evaluate(analyzer: Analyzer, samples: ValidationSet) -> dict[str, float]:
    """The field's metrics for words; for voices and faces the balanced accuracy of the valence sign.

    That is happy against angry, sad, fear and disgust, with one modality alone. A file in which nothing is found counts
    as wrong.
    """
    results = list(samples.results(analyzer))
    if samples.modality == "text":
        return evaluate_scores(np.array([result.score for result in results]), samples.labels)
    scores = np.array([-label if r is None else r.score for r, label in zip(results, samples.labels, strict=True)])
    accuracy = sign_accuracy(scores, samples.emotions)
    found = 1.0 - results.count(None) / len(results)
    return {"n": len(scores), "found": round(found, 4), "sign_accuracy": round(accuracy, 4)}


def measure(bundle: Path | None, sets: list[ValidationSet]) -> dict[str, dict]:
    """All rows of one bundle."""
    table: dict[str, dict] = {}
    with Analyzer(bundle, device="cpu") as analyzer:
        table["model"] = {"name": analyzer.model.name, "precision": analyzer.model.precision}
        for samples in sets:
            table[samples.name] = evaluate(analyzer, samples)
            print(f"{analyzer.model.precision} {samples.name}: {table[samples.name]}", file=sys.stderr)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mosi/, mosei/, speech/ and faces/")
    parser.add_argument("--bundle", type=Path, action="append", help="a bundle; may be repeated (the default bundle)")
    parser.add_argument("--pictures", type=int, default=3589, help="how many FER2013 validation pictures to take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sets = validation_sets(arguments.data, Path(folder), arguments.pictures)
        tables = [measure(bundle, sets) for bundle in arguments.bundle or [None]]
    record = {"machine": machine(), "bundles": tables}
    print(json.dumps(record, indent=2))
    save("accuracy", record)


if __name__ == "__main__":
    main()
