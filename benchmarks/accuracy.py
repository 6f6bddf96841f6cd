"""Validation accuracy of a bundle as its user gets it: python -m benchmarks.accuracy --data DATA [--bundle B ...]

Each sentence, recording and picture goes through the public `Analyzer`, as `psamf-edge evaluate` would take it. Words
alone are MOSI's and MOSEI's validation splits; voice alone the recordings of speakers not trained on; face alone
FER2013's validation pictures, written as PNG files and found by the face path. Composed samples are in the weights'
training.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path

import av
import numpy as np

from benchmarks.measure import machine, save
from psamf_edge.analyzer import Analyzer
from psamf_edge.compile.data.speech import describe
from psamf_edge.compile.expression.data import SYNONYMS
from psamf_edge.compile.training.validation import sign_accuracy
from psamf_edge.errors import InputError
from psamf_edge.metrics import evaluate_scores


def score_texts(analyzer: Analyzer, labels: Path) -> dict[str, float]:
    """The field's metrics on the validation rows of a labels.csv."""
    with labels.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "valid"]
    scores = [analyzer(text=row["text"], whole=True).score for row in rows]
    return evaluate_scores(np.array(scores), np.array([float(row["label"]) for row in rows]))


def score_files(analyzer: Analyzer, files: list[Path], emotions: list[str], modality: str) -> dict[str, float]:
    """Balanced accuracy of the valence sign, happy against angry, sad, fear and disgust, with one modality alone."""
    scores, kept = [], []
    for path, emotion in zip(files, emotions, strict=True):
        try:
            scores.append(analyzer(path, modalities=(modality,), whole=True).score)
            kept.append(emotion)
        except InputError:
            pass  # counted below as unusable
    accuracy = sign_accuracy(np.array(scores), np.array(kept))
    return {"n": len(kept), "unusable": len(files) - len(kept), "sign_accuracy": round(accuracy, 4)}


def write_png(path: Path, gray: np.ndarray) -> None:
    """A grey picture (H, W) uint8 as a PNG file."""
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1, width=gray.shape[1], height=gray.shape[0], pix_fmt="gray")
        frame = av.VideoFrame.from_ndarray(gray, format="gray")
        container.mux(stream.encode(frame) + stream.encode())


def measure(bundle: Path | None, data: Path, pictures: list[Path], picture_emotions: list[str]) -> dict[str, dict]:
    """All rows of one bundle."""
    table: dict[str, dict] = {}
    with Analyzer(bundle, device="cpu") as analyzer:
        table["model"] = {"name": analyzer.model.name, "precision": analyzer.model.precision}
        for name in ("mosi", "mosei"):
            table[f"text {name}"] = score_texts(analyzer, data / name / "labels.csv")
            print(f"{analyzer.model.precision} text {name}: {table[f'text {name}']}", file=sys.stderr)
        for corpus in ("ravdess", "emodb"):
            files = sorted((data / "speech" / corpus).glob("*.opus"))
            held_out = [path for path in files if describe(path)[2]]
            emotions = [describe(path)[1] for path in held_out]
            table[f"audio {corpus}"] = score_files(analyzer, held_out, emotions, "audio")
            print(f"{analyzer.model.precision} audio {corpus}: {table[f'audio {corpus}']}", file=sys.stderr)
        table["face fer2013"] = score_files(analyzer, pictures, picture_emotions, "face")
        print(f"{analyzer.model.precision} face fer2013: {table['face fer2013']}", file=sys.stderr)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mosi/, mosei/, speech/ and faces/")
    parser.add_argument("--bundle", type=Path, action="append", help="a bundle; may be repeated (the default bundle)")
    parser.add_argument("--pictures", type=int, default=3589, help="how many FER2013 validation pictures to take")
    arguments = parser.parse_args()
    faces = np.load(arguments.data / "faces" / "fer2013_valid.npz", allow_pickle=False)
    names = [str(faces["classes"][label]) for label in faces["labels"][: arguments.pictures]]
    with tempfile.TemporaryDirectory() as folder:
        pictures = [Path(folder) / f"{i:05d}.png" for i in range(len(names))]
        for path, image in zip(pictures, faces["images"], strict=False):
            write_png(path, image)
        emotions = [SYNONYMS.get(name, name) for name in names]
        tables = [measure(b, arguments.data, pictures, emotions) for b in arguments.bundle or [None]]
    record = {"machine": machine(), "bundles": tables}
    print(json.dumps(record, indent=2))
    save("accuracy", record)


if __name__ == "__main__":
    main()
