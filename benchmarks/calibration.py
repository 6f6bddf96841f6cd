"""What eight bits on a GPU cost, by the way their ranges are found: python -m benchmarks.calibration --data DATA

Ranges are found on MOSI's training sentences and the check set, and judged on MOSI's validation sentences: alone, and
with a synthetic voice and face beside each, of other seeds than the check set's. Every row is the model as it is
lowered for TensorRT, float16 around the products included, in ONNX Runtime on a CPU. Writes results/calibration.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, save
from benchmarks.tables import calibration as describe
from psamf_edge.audio.features import extract
from psamf_edge.compile.export.lowering import Exported, cut, lower_parts
from psamf_edge.compile.quality.bounds import Bounds
from psamf_edge.compile.quality.check_set import FACE_RATE, LONGEST_S, SECONDS_A_WORD, Sample, check_set, face, voice
from psamf_edge.compile.quality.comparison import Comparison, compare_scores
from psamf_edge.compile.quality.plan_scorer import PlanScorer
from psamf_edge.compile.quantisation.calibration import Calibration
from psamf_edge.compile.quantisation.formats import FORMATS, Format
from psamf_edge.compile.quantisation.observation import observe
from psamf_edge.compile.quantisation.products import QUANTISED_PARTS
from psamf_edge.compile.quantisation.ranges import Activation, Seen, choose, quantised
from psamf_edge.compile.quantisation.stages import MOST_SAMPLES
from psamf_edge.compile.source import DEFAULT_WEIGHTS, Source, open_source
from psamf_edge.dataset import Row, read_rows
from psamf_edge.plan import Features
from psamf_edge.words.wordpiece import WordPiece

ROWS = 4096  # of each activation: all that half of the sentences have, so that 99.999 of 100 values mean something
RANGES = 40  # that the squared error of an activation is tried on, evenly up to its greatest value
PERCENTILES = (99.9, 99.99, 99.999)
ALPHAS = (None, 0.5, 0.7, 0.8, 0.9, 1.0)
FIRST_SEED = 1000  # of the voices and faces beside validation sentences: the check set has those from 0 on
TARGET = "tensorrt"

Choose = Callable[[Seen, Format], Activation]


@dataclass(frozen=True)
class Way:
    """One row: a precision and how its ranges are found.

    products: "trunk": those of the trunk's width, in the text and the fusion; "text": of the text alone; "all": all.
    data: "sentences": MOSI's and the check set; "words": MOSI's alone; "check set": that alone.
    """

    precision: str
    ranges: str = ""
    smoothing: str = ""
    choose: Choose | None = None
    products: str = "trunk"
    data: str = "sentences"


def ways() -> list[Way]:
    """All rows of the table."""
    rivals = [("greatest value", _greatest)]
    rivals += [
        (f"percentile {p:g}", lambda rows, form, p=p: float(np.percentile(np.abs(rows), p))) for p in PERCENTILES
    ]
    rivals += [("squared error", _least_squares)]
    rows = [Way("fp16"), Way("int8-weights")]
    for alpha in ALPHAS:
        smoothing = "none" if alpha is None else f"alpha {alpha:g}"
        rows += [Way("int8", name, smoothing, rival(find, alpha)) for name, find in rivals]
    chosen = ("squared error of the products", "by activation")
    rows += [Way("int8", *chosen, choose)]
    rows += [Way("int8", *chosen, choose, products=products) for products in ("text", "all")]
    rows += [Way("int8", *chosen, choose, data=data) for data in ("words", "check set")]
    return [*rows, Way("fp8", "greatest value", "none", rival(_greatest, None)), Way("fp8", *chosen, choose)]


def rival(find: Callable[[np.ndarray, Format], float], alpha: float | None) -> Choose:
    """A way that finds the range on the activation alone, after a smoothing that is the same for all."""

    def choose_range(seen: Seen, form: Format) -> Activation:
        smoothing = seen.smoothing(alpha, seen.peak)
        divisor = np.float32(1) if smoothing is None else smoothing
        rows = np.vstack([seen.rows, seen.peak]) / divisor  # the greatest values are among the rows, whatever was kept
        return Activation(seen.products, find(rows, form), smoothing)

    return choose_range


def _greatest(rows: np.ndarray, form: Format) -> float:
    return float(np.abs(rows).max())


def _least_squares(rows: np.ndarray, form: Format) -> float:
    candidates = _greatest(rows, form) * np.arange(1, RANGES + 1) / RANGES  # (RANGES,)
    rows = rows[:-1]  # without the peaks, which are of no one row
    return float(min(candidates, key=lambda each: np.square(quantised(rows, each, form) - rows).sum(dtype=np.float64)))


class Bench:
    """The default weights, lowered in every way.

    Args:
        data: holds mosi/labels.csv.
        most: validation sentences to use; None: all.
    """

    def __init__(self, data: Path, most: int | None = None) -> None:
        source = self.source = open_source(DEFAULT_WEIGHTS)
        self.exported: list[Exported] = [
            cut(source.export(segment), segment, None) for segment in source.segments(False)
        ]
        self.parts = [part for each in self.exported for part in each.parts]
        train, valid = (read_rows(data / "mosi" / "labels.csv", split) for split in ("train", "valid"))
        train = [train[number * len(train) // MOST_SAMPLES] for number in range(MOST_SAMPLES)]
        wordpiece = WordPiece(source.files["vocab.txt"])
        words, check = sentences(train, wordpiece, source), check_set(source.files["vocab.txt"], source.shapes)
        self.calibration = {"sentences": words + check, "words": words, "check set": check}
        self.valid = sentences(valid[:most], wordpiece, source)
        self.composed = [with_company(sample, FIRST_SEED + i) for i, sample in enumerate(self.valid)]
        self.exact = {name: self._scores(self.parts, samples) for name, samples in self._sets().items()}
        self._seen: dict[tuple[str, str, int], dict[str, dict[str, Seen]]] = {}

    def row(self, way: Way) -> dict:
        """Lower in one way, score, and compare with float32."""
        calibration = None
        if way.choose is not None:
            form, seen = FORMATS[way.precision], self._look(way)
            found = {part: {n: way.choose(each, form) for n, each in tensors.items()} for part, tensors in seen.items()}
            calibration = Calibration(found, {}, {})
        lowered = lower_parts(self.parts, way.precision, TARGET, calibration=calibration)
        compared = {
            name: compare_scores(samples, self.exact[name], self._scores(lowered, samples))
            for name, samples in self._sets().items()
        }
        broken = [sentence for each in compared.values() for sentence in each.broken(Bounds())]
        told = {name: getattr(way, name) for name in ("precision", "ranges", "smoothing", "products", "data")}
        return {**told, **{name: figures(each) for name, each in compared.items()}, "within_bounds": not broken}

    def _sets(self) -> dict[str, list[Sample]]:
        return {"valid": self.valid, "composed": self.composed}

    def _scores(self, parts: list, samples: list[Sample]) -> np.ndarray:
        return PlanScorer(parts, self.source.shapes).scores(samples)

    def _look(self, way: Way) -> dict[str, dict[str, Seen]]:
        """The activations of one choice of data and products, looked at once."""
        rows = 0 if way.choose is choose else ROWS
        key = (way.data, way.products, rows)
        if key not in self._seen:
            options = {"least": 1 if way.products == "all" else None}
            options |= {"names": ("text",) if way.products == "text" else QUANTISED_PARTS}
            options |= {"rows": rows} if rows else {}  # the way that ships has its own number
            self._seen = {key: observe(self.parts, self.source.shapes, self.calibration[way.data], **options)}
        return self._seen[key]


def sentences(rows: list[Row], wordpiece: WordPiece, source: Source) -> list[Sample]:
    """Rows of words alone."""
    return [
        Sample(row.id, Features(wordpiece.encode(row.text, source.shapes.max_tokens).ids), row.label) for row in rows
    ]


def with_company(sample: Sample, seed: int) -> Sample:
    """A sentence with a synthetic voice and face of its length; without its label, which is of the words alone."""
    rng, ids = np.random.default_rng(seed), sample.features.ids
    seconds = min(LONGEST_S, SECONDS_A_WORD * len(ids))
    return Sample(
        sample.name,
        Features(ids, extract(voice(rng, seconds)), face(rng, max(1, round(seconds * FACE_RATE)))),
    )


def figures(compared: Comparison) -> dict:
    """Of one comparison."""
    values = {"n": compared.n, "gap": round(compared.gap, 5), "worst": round(compared.worst, 5)}
    if compared.against_labels is not None:
        lowered = compared.against_labels["lowered"]
        values |= {name: round(lowered[name], 5) for name in ("mae", "corr", "acc2_non0")}
    return values


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds mosi/labels.csv")
    parser.add_argument("--samples", type=int, help="validation sentences to use  [default: all]")
    parser.add_argument("-o", "--output", type=Path, help="write elsewhere than to benchmarks/results")
    options = parser.parse_args()
    bench, rows = Bench(options.data, options.samples), []
    for way in ways():
        rows.append(bench.row(way))
        print(json.dumps(rows[-1]), file=sys.stderr)
    exact = figures(compare_scores(bench.valid, bench.exact["valid"], bench.exact["valid"]))
    record = {
        "machine": machine(),
        "evaluated_by": "ONNX Runtime on a CPU, graphs as TensorRT gets them",
        "bounds": vars(Bounds()),
        "fp32": exact,
        "rows": rows,
    }
    save("calibration", record, options.output)
    print(describe(record))


if __name__ == "__main__":
    main()
