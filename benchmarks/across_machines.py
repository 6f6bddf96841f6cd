"""Do two machines give the same scores? Collect them on each, then compare:

    python -m benchmarks.across_machines collect -o here.json
    python -m benchmarks.across_machines compare here.json there.json

What results/machines/ holds was collected so, a folder for each bundle; docs/jetson.md shows it.

The inputs are the check set that compiled models are judged on (psamf_edge.compile.quality.check_set: no recordings,
the same everywhere) and the sample clip, in every subset of the modalities that each has. The check set goes through
the voice features and the model; the clip also through the decoder and the face path. Nothing is timed, so that an
emulated processor serves as well as a real one: `--emulated` says that it is one, and which. The record's instructions
are those that the process itself finds, and not those of /proc/cpuinfo, which an emulator may pass on from its host.
Needs only what is needed at run time.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import numpy as np

from benchmarks.measure import RESULTS, machine
from benchmarks.tables import table
from psamf_edge.analyzer import Analyzer
from psamf_edge.backends import open_backend
from psamf_edge.bench.suite import SAMPLE
from psamf_edge.bundle import Bundle, open_bundle
from psamf_edge.compile.quality.check_set import NAME, check_set
from psamf_edge.errors import PsamfError, UsageError
from psamf_edge.result import MODALITIES, label_of

DECIMALS = 6  # of what is recorded: the last that float32 holds of a score above 1
MACHINES = RESULTS / "machines"
REFERENCE = "x86_64-python3.11.json"  # in each of its folders: what the others are compared with
FIELDS = dict(zip(MODALITIES, ("ids", "audio", "face"), strict=True))  # of Features
Row = tuple[str, str, float, float]  # subset, input, score, confidence


def subsets(present: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All but the empty one, in the order of MODALITIES."""
    return [chosen for size in range(1, len(present) + 1) for chosen in combinations(present, size)]


def check_set_rows(bundle: Bundle) -> list[Row]:
    """Each sample in each subset of what it has."""
    rows = []
    with open_backend(bundle, "cpu") as backend:
        for sample in check_set(bundle.read("vocab.txt"), bundle.shapes):
            for chosen in subsets(sample.features.present):
                left_out = {FIELDS[name]: None for name in sample.features.present if name not in chosen}
                outputs = backend.run(replace(sample.features, **left_out))
                rows.append(("+".join(chosen), f"check set {sample.name}", outputs.score, outputs.confidence))
    return rows


def clip_rows(bundle: Bundle) -> list[Row]:
    """Each utterance of the sample clip in each subset."""
    rows = []
    with Analyzer(bundle.path, "cpu") as analyzer:
        for chosen in subsets(MODALITIES):
            segments = analyzer(SAMPLE, modalities=chosen).segments
            rows += [("+".join(chosen), f"sample {s.start_ms} ms", s.score, s.confidence) for s in segments]
    return rows


def instructions() -> list[str]:
    """The instruction sets that NumPy finds by asking the processor (the kernel, on ARM), in its names."""
    core = getattr(np, "_core", None) or np.core  # its name before NumPy 2
    return [name for name, found in core._multiarray_umath.__cpu_features__.items() if found]


def collect(bundle: Bundle, emulated: str | None) -> dict:
    """What this machine is and what it scores."""
    here = machine() | {name: version(name) for name in ("numpy", "av")} | {"instructions": instructions()}
    if emulated:  # whatever this process reads of the processor's name is the host's
        here = {name: value for name, value in here.items() if name != "cores"} | {"cpu": emulated, "emulated": True}
    found: dict[str, dict[str, list[float]]] = {}
    for subset, name, score, confidence in [*check_set_rows(bundle), *clip_rows(bundle)]:
        found.setdefault(subset, {})[name] = [round(score, DECIMALS), round(confidence, DECIMALS)]
    model = {"name": bundle.name, "precision": bundle.precision, "manifest_sha256": bundle.manifest_sha256}
    return {"machine": here, "model": model, "inputs": [NAME, SAMPLE.name], "score and confidence": found}


def differences(one: dict, other: dict) -> list[dict]:
    """A row for each subset of modalities: how far the scores of two records lie apart.

    Raises:
        UsageError: they are of different models or inputs.
    """
    for what in ("model", "inputs"):
        if one[what] != other[what]:
            raise UsageError(f"The two are not of the same {what}: {one[what]} and {other[what]}. Collect both anew.")
    rows = []
    for subset, scored in one["score and confidence"].items():
        also = other["score and confidence"].get(subset, {})
        if scored.keys() != also.keys():  # an utterance that begins elsewhere, or a modality that was not found
            apart = ", ".join(sorted(scored.keys() ^ also.keys()))
            raise UsageError(f"With {subset} the two did not score the same utterances: only one has {apart}.")
        values = np.array([(scored[name], also[name]) for name in scored])  # (n, 2 machines, score and confidence)
        score, confidence = np.abs(values[:, 0] - values[:, 1]).T
        (a, b), apart = values[..., 0].T, list(scored)[int(score.argmax())]
        rows.append({
            "subset": subset,
            "n": len(values),
            "same": int((score == 0).sum()),
            "mean": float(score.mean()),
            "max": float(score.max()),
            "max_input": apart,
            "confidence_max": float(confidence.max()),
            "signs": int((np.sign(a) != np.sign(b)).sum()),
            "labels": sum(label_of(x) != label_of(y) for x, y in zip(a, b, strict=True)),
        })  # fmt: skip
    return rows


def describe(rows: list[dict]) -> str:
    """Those rows as Markdown."""
    header = ["modalities", "n", "equal to 1e-6", "mean", "largest", "of confidence", "other sign", "other label"]
    return table(header, [
        [row["subset"], f"{row['n']}", f"{row['same']}", f"{row['mean']:.4f}", f"{row['max']:.4f}",
         f"{row['confidence_max']:.4f}", f"{row['signs']}", f"{row['labels']}"]
        for row in rows
    ])  # fmt: skip


def overview() -> str:
    """Every record of results/machines beside the reference of its folder, as Markdown: the largest differences."""
    header = ["bundle", "processor", "Python", "onnxruntime", "words", "voice", "face", "any subset", "other sign"]
    rows = []
    for reference in sorted(MACHINES.glob(f"*/{REFERENCE}"), reverse=True):  # int8 before fp32
        one = json.loads(reference.read_text())
        for path in sorted(reference.parent.glob("*.json"), key=lambda path: (path != reference, path.name)):
            other = json.loads(path.read_text())
            found = {row["subset"]: row for row in differences(one, other)}
            largest = [*(found[name]["max"] for name in MODALITIES), max(row["max"] for row in found.values())]
            signs, n = (sum(row[key] for row in found.values()) for key in ("signs", "n"))
            told = [f"{value:.4f}" for value in largest] + [f"{signs} of {n}"]
            if path == reference:
                told = ["reference"] + [""] * (len(told) - 1)
            here = other["machine"]
            rows.append([one["model"]["precision"], here["cpu"], here["python"], here["onnxruntime"], *told])
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="write what this machine scores")
    collecting.add_argument("-o", "--output", type=Path, required=True)
    collecting.add_argument("--bundle", type=Path, help="a bundle (the default bundle)")
    collecting.add_argument("--emulated", metavar="NAME", help="this is no real processor: by what and which")
    comparing = commands.add_parser("compare", help="how far apart two such files are")
    comparing.add_argument("one", type=Path)
    comparing.add_argument("other", type=Path)
    chosen = parser.parse_args()
    try:
        if chosen.command == "collect":
            record = collect(open_bundle(chosen.bundle), chosen.emulated)
            chosen.output.write_text(json.dumps(record, indent=1) + "\n")
        else:
            print(describe(differences(*(json.loads(path.read_text()) for path in (chosen.one, chosen.other)))))
    except PsamfError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
