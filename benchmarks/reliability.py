"""Is a bundle right as often as it is sure? python -m benchmarks.reliability --data DATA [--bundle B]

Each sentence, recording and picture goes through the public `Analyzer`; of those whose label has a sign (non0) the
confidence is set against how often the sign of the score is right. Among voices and faces both signs weigh the same, as
in benchmarks.accuracy. The calibration was fitted on these very sets, so this shows what the bundle does with it after
quantisation; what it is worth on samples it was not fitted on, by cross-validation, stands in the weights'
training.json. Sentences of a sitcom (MELD) had no part in it. Writes results/reliability.json and .svg.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.measure import RESULTS, machine, save
from benchmarks.validation_sets import ValidationSet, sitcom, validation_sets
from psamf_edge.analyzer import Analyzer
from psamf_edge.compile.calibration.metrics import balanced_weights, reliability, rounded, summarise

TITLES = {
    "text mosi": "words, CMU-MOSI",
    "text mosei": "words, CMU-MOSEI",
    "audio ravdess": "voice, RAVDESS",
    "audio emodb": "voice, EMO-DB",
    "face fer2013": "face, FER2013",
    "text meld": "words, MELD",
}
BLUE, GREY = "#2b6cb0", "#8a8f98"


def evaluate(analyzer: Analyzer, samples: ValidationSet) -> dict:
    """Counts, `summarise`, mean confidence where the label is 0, and the bins of equal width."""
    results = list(samples.results(analyzer))
    usable = np.array([result is not None for result in results])
    scores, confidences = np.array([(r.score, r.segments[0].confidence) for r in results if r is not None]).T
    labels = samples.labels[usable]
    signed = labels != 0
    t, c = labels[signed], confidences[signed]
    right = (scores[signed] > 0) == (t > 0)
    weights = None if samples.modality == "text" else balanced_weights(t)
    return {
        "n": len(t),
        "unsigned": int((~signed).sum()),
        "unusable": int((~usable).sum()),
        **rounded(summarise(c, right, weights)),
        "confidence_unsigned": round(float(confidences[~signed].mean()), 4) if (~signed).any() else None,
        "bins": [rounded(asdict(b)) for b in reliability(c, right, weights)],
    }


def plot(sets: dict[str, dict], path: Path) -> None:
    """One panel a set: accuracy against confidence with its 95 % intervals, and how many samples lie where.

    The same bytes for the same numbers and version of matplotlib.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    # text stays text: half the size; the salt makes ids, and so the file, the same each time
    style = {"svg.fonttype": "none", "svg.hashsalt": "reliability", "font.size": 9, "font.sans-serif": ["DejaVu Sans"]}
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            2, len(sets), figsize=(2.5 * len(sets), 3.6), sharex=True, sharey="row", squeeze=False,
            height_ratios=(3, 1), layout="constrained",
        )  # fmt: skip
        for (name, values), (upper, lower) in zip(sets.items(), axes.T, strict=True):
            draw(upper, lower, TITLES.get(name, name), values)
        axes[0, 0].set_ylabel("sign is right")
        axes[1, 0].set_ylabel("samples")
        figure.supxlabel("confidence", fontsize=9)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    path.write_text(compact(drawn.getvalue()))


def compact(svg: str) -> str:
    """The same picture in half the bytes: no indentation, and hundredths of a point instead of millionths."""
    svg = re.sub(r"\d+\.\d{4,}", lambda number: f"{float(number[0]):.2f}", svg)
    return "".join(line.lstrip() + "\n" for line in svg.splitlines())


def draw(upper, lower, title: str, values: dict) -> None:
    """One panel's two axes. A point's area is its share of the weight: a bin of three samples must not shout."""
    whole = {"clip_on": False}  # all lies inside the axes, and clips are a tenth of the file
    bins = values["bins"]
    confidence, accuracy, share = (np.array([b[key] for b in bins]) for key in ("confidence", "accuracy", "share"))
    upper.plot([0.5, 1], [0.5, 1], color=GREY, linewidth=1, linestyle="--", **whole)
    upper.vlines(
        confidence, [b["accuracy_low"] for b in bins], [b["accuracy_high"] for b in bins], BLUE, linewidth=0.8, **whole
    )
    upper.scatter(confidence, accuracy, s=12 + 150 * share, color=BLUE, alpha=0.85, linewidth=0, zorder=3, **whole)
    upper.set(title=title, xlim=(0.48, 1.03), ylim=(0, 1.05), xticks=(0.5, 0.75, 1.0), yticks=(0, 0.25, 0.5, 0.75, 1))
    upper.text(
        0.98, 0.03, f"n = {values['n']}, ECE {values['ece_mass']:.3f}\n(by chance {values['ece_chance']:.3f})",
        transform=upper.transAxes, ha="right", va="bottom", fontsize=8, color="#333333",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip
    counts = [b["n"] / values["n"] for b in bins]
    lower.bar([b["low"] for b in bins], counts, width=[b["high"] - b["low"] for b in bins], align="edge", color=BLUE,
              alpha=0.55, edgecolor="white", linewidth=0.5, **whole)  # fmt: skip
    for axis in (upper, lower):
        axis.grid(axis="y", color="#e3e5e8", linewidth=0.6, **whole)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False, bottom=axis is lower)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mosi/, mosei/, speech/ and faces/")
    parser.add_argument("--bundle", type=Path, help="a bundle (the default bundle)")
    parser.add_argument("--pictures", type=int, default=3589, help="how many FER2013 validation pictures to take")
    arguments = parser.parse_args()
    table: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder, Analyzer(arguments.bundle, device="cpu") as analyzer:
        sets = validation_sets(arguments.data, Path(folder), arguments.pictures)
        for samples in (*sets, sitcom(arguments.data)):
            table[samples.name] = evaluate(analyzer, samples)
            print(f"{samples.name}: {table[samples.name]}", file=sys.stderr)
        model = {"name": analyzer.model.name, "precision": analyzer.model.precision}
    record = {"machine": machine(), "model": model, "sets": table}
    print(json.dumps(record, indent=2))
    save("reliability", record)
    plot(table, RESULTS / "reliability.svg")


if __name__ == "__main__":
    main()
