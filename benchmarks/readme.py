"""Write the measured tables of README.md, the model card and docs: python -m benchmarks.readme

Each table is made from a committed result file and stands between <!-- NAME --> and <!-- /NAME -->. No number of those
tables is typed by hand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import across_machines
from benchmarks.cpu_tables import peers, precisions, settings
from benchmarks.tables import (
    SETS,
    ablations,
    beside_teacher,
    by_set,
    calibration_in_short,
    composed,
    conflicts,
    number,
    seeds,
    table,
    voice_speakers,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "compile" / "weights" / "default"
DOCUMENTS = (ROOT / "README.md", WEIGHTS / "MODEL_CARD.md", *sorted((ROOT / "docs").glob("*.md")))


def demo() -> str:
    """The first command of the README and what it prints."""
    arguments = ["infer", "psamf_edge/data/sample.mp4", "--format", "srt", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "psamf_edge", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [f"$ psamf-edge {' '.join(arguments[:-1])}", *done.stdout.strip().splitlines()]
    return "\n".join(f"    {line}".rstrip() for line in lines)


def latency() -> str:
    """The model beside its rivals, then the whole clip."""
    record = json.loads((RESULTS / "clip_latency.json").read_text())
    rows = [
        [name, f"{row['p50']:.1f}", f"{row['p95']:.1f}", f"{row['ratio']:g} x"] for name, row in record["model"].items()
    ]
    model = table(["model: 50 tokens, 10 s of voice and face, one thread", "p50 ms", "p95 ms", "time"], rows)
    warm, cold, memory = record["warm"], record["cold"], record["memory"]
    rows = [
        ["9 s clip, words given, warm", f"{warm['clip']['p50']:.0f}", f"{warm['clip']['p95']:.0f}"],
        ["the same, first clip of a process", f"{cold['score']['p50']:.0f}", f"{cold['score']['p95']:.0f}"],
        ["import and load", f"{cold['import and load']['p50']:.0f}", f"{cold['import and load']['p95']:.0f}"],
    ]
    clip = table(["end to end", "p50 ms", "p95 ms"], rows)
    m = record["machine"]
    decoder = sum(value for name, value in memory.items() if name.startswith("child"))
    where = (
        f"{m['cpu']}, {m['cores']} cores, onnxruntime {m['onnxruntime']}, Python {m['python']}, {m['date']}. "
        f"Resident memory after {warm['clip']['n']} clips: {memory['resident_mb']:.0f} MB, and {decoder:.0f} MB in the "
        f"decoder's process. The last two rows are of {cold['score']['n']} processes. `make bench` measures it anew."
    )
    return f"{model}\n\n{clip}\n\n{where}"


def accuracy() -> str:
    """Validation rows of every bundle measured, side by side."""
    bundles = json.loads((RESULTS / "accuracy.json").read_text())["bundles"]
    header = ["validation", "measure", *[b["model"]["precision"] for b in bundles]]
    return by_set(header, bundles, "n", number)


def confidence() -> str:
    """How sure the default bundle is beside how often it is right, on the samples that it was fitted on and on MELD.

    The cross-validated ECE is of the weights, before they are quantised.
    """
    sets = json.loads((RESULTS / "reliability.json").read_text())["sets"]
    fitted = json.loads((WEIGHTS / "training.json").read_text())["calibration"]["sets"]
    header = ["validation", "mean confidence", "signs that are right", "ECE", "cross-validated", "by chance", "Brier"]
    rows = []
    for name, label in (SETS | {"face fer2013": "face, FER2013", "text meld": "words, MELD (a sitcom)"}).items():
        if values := sets.get(name):
            held_out = f"{fitted[name]['after']['ece_mass']:.3f}" if name in fitted else "not fitted"
            shown = [f"{values[key]:.3f}" for key in ("confidence", "accuracy", "ece_mass", "ece_chance", "brier")]
            rows.append([f"{label} ({values['n']})", *shown[:3], held_out, *shown[3:]])
    return table(header, rows)


def personality() -> str:
    """The means over five traits on held-out texts, with their 95 % intervals, beside the majority."""
    splits = json.loads((RESULTS / "personality.json").read_text())["metrics"]
    header = ["personality encoder, held out", "majority", "accuracy", "AUC", "better than the majority"]
    rows = []
    for split, sets in splits.items():
        for name, kinds in sets.items():
            mean, n = kinds["texts"]["mean"], kinds["texts"]["n"]
            measured = [f"{mean[k]:.3f} [{mean[f'{k}_interval'][0]:.2f}, {mean[f'{k}_interval'][1]:.2f}]"
                        for k in ("accuracy", "auc")]  # fmt: skip
            told = "yes" if mean["beats_majority"] else "no"
            rows.append([f"{name}, {split} ({n})", f"{mean['majority']:.3f}", *measured, told])
    return table(header, rows)


def composed_samples() -> str:
    """Every subset of modalities on composed validation samples, from the weights' training record."""
    return composed(json.loads((WEIGHTS / "training.json").read_text())["metrics"], number)


def ablation(name: str) -> str:
    """The model's rows of one table, for each choice of corpora that they were trained on."""
    rows = json.loads((RESULTS / "ablations.json").read_text())["rows"]
    parts = [ablations(rows, name, corpora) for corpora in dict.fromkeys(row["corpora"] for row in rows)]
    return "\n\n".join(part for part in parts if part)


def dependencies() -> str:
    """Every package: its place, range, size and reason."""
    record = json.loads((RESULTS / "dependencies.json").read_text())

    def size(row: dict) -> str:
        build = " (CPU build)" if row["version"].endswith("+cpu") else ""
        return f"{row['mb']:.1f}{build}"

    rows = [
        [row["package"], row["place"], row["range"] or "", "" if row["mb"] is None else size(row), row["reason"]]
        for row in record["packages"]
    ]
    header = ["package", "needed by", "range", "MB installed", "what for"]
    return f"{table(header, rows)}\n\n{record['system']}, Python {record['python']}, {record['date']}."


def conflicting() -> str:
    """How far a voice and a face of each side shift the score of words."""
    return conflicts(json.loads((RESULTS / "conflicts.json").read_text())["corpora"])


def teacher() -> str:
    """The default's teacher beside the students of all seeds."""
    return beside_teacher(*(json.loads((RESULTS / f"{name}.json").read_text()) for name in ("teacher", "seeds")))


def of_file(make: Callable[[dict], str], name: str) -> str:
    """A table of one result file as it is, or how to make that."""
    path = RESULTS / f"{name}.json"
    return make(json.loads(path.read_text())) if path.is_file() else f"Not measured yet: `python -m benchmarks.{name}`."


TABLES = {  # from files: the same on every machine
    "latency": latency,
    "accuracy": accuracy,
    "composed": composed_samples,
    "confidence": confidence,
    "personality": personality,
    "teachers": partial(ablation, "teacher"),
    "distillation": partial(ablation, "distillation"),
    "students": partial(ablation, "students"),
    "conflicts": conflicting,
    "calibration": partial(of_file, calibration_in_short, "calibration"),
    "dependencies": dependencies,
    "seeds": partial(of_file, seeds, "seeds"),
    "teacher": teacher,
    "voices": partial(of_file, voice_speakers, "voice_speakers"),
    "machines": across_machines.overview,
    "peers": partial(of_file, peers, "peers"),
    "precisions": partial(of_file, precisions, "cpu_choices"),
    "settings": partial(of_file, settings, "cpu_choices"),
}


def filled(document: str, tables: dict[str, Callable[[], str]]) -> str:
    """The document with each marked table made anew."""
    for name, make in tables.items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(document):
            made = make()
            document = pattern.sub(lambda m, made=made: f"{m[1]}{made}\n{m[2]}", document)
    return document


def main() -> None:
    for path in DOCUMENTS:
        old = path.read_text()
        new = filled(old, TABLES | {"demo": demo})
        if new != old:
            path.write_text(new)
            print(f"{path.relative_to(ROOT)} written", file=sys.stderr)


if __name__ == "__main__":
    main()
