"""Write the measured tables of README.md and the model card: python -m benchmarks.readme

Each table is made from a committed result file and stands between <!-- NAME --> and <!-- /NAME -->. No number of those
tables is typed by hand.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "compile" / "weights" / "default"
DOCUMENTS = (ROOT / "README.md", WEIGHTS / "MODEL_CARD.md")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
        "decoder's process. `python -m benchmarks.clip_latency` prints it anew."
    )
    return f"{model}\n\n{clip}\n\n{where}"


def accuracy() -> str:
    """Validation rows of every bundle measured, side by side."""
    bundles = json.loads((RESULTS / "accuracy.json").read_text())["bundles"]
    header = ["validation", "measure", *[b["model"]["precision"] for b in bundles]]
    rows = []
    for name, label in (("text mosi", "words, CMU-MOSI"), ("text mosei", "words, CMU-MOSEI")):
        for key, title in (("mae", "MAE"), ("corr", "Corr"), ("acc2_non0", "Acc-2 non0"), ("f1_non0", "F1 non0")):
            rows.append([f"{label} ({bundles[0][name]['n']})", title, *[f"{b[name][key]:.3f}" for b in bundles]])
    for name, label in (
        ("audio ravdess", "voice, RAVDESS actors not trained on"),
        ("audio emodb", "voice, EMO-DB speakers not trained on"),
        ("face fer2013", "face, FER2013 through the whole face path"),
    ):
        measured = [f"{b[name]['sign_accuracy']:.3f}" for b in bundles]
        rows.append([f"{label} ({bundles[0][name]['n']})", "valence sign", *measured])
    return table(header, rows)


def composed() -> str:
    """Every subset of modalities on composed validation samples, from the weights' training record."""
    metrics = json.loads((WEIGHTS / "training.json").read_text())["metrics"]
    rows = [
        [name.removeprefix("composed "), f"{v['mae']:.3f}", f"{v['corr']:.3f}", f"{v['acc2_non0']:.3f}"]
        for name, v in metrics.items()
        if name.startswith("composed ")
    ]
    return table(["composed validation samples", "MAE", "Corr", "Acc-2 non0"], rows)


TABLES = {"latency": latency, "accuracy": accuracy, "composed": composed}  # from files: the same on every machine


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
