"""Does the model use what it hears and sees? python -m benchmarks.conflicts --data DATA [--bundle B] [--features DIR]

Validation sentences of each side are scored alone, and composed with a voice, a face or both of each side: one that
agrees, a neutral one, or one that conflicts. The table gives the mean score of the words alone, and how far the company
shifts it. With company that has a side and is not on the words' own, the score should move to that side. Recordings and
pictures are of the validation split, unaugmented; each sentence gets ones of its own draw. The intervals are over
sentences and draws: the voices are those of six speakers, and other speakers may differ by more. Writes
results/conflicts.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import machine, save
from benchmarks.tables import conflicts as describe
from psamf_edge.backends import Backend, open_backend
from psamf_edge.bundle import Bundle, open_bundle
from psamf_edge.compile.data.compose import Composer, combine
from psamf_edge.compile.data.faces import FaceSet, load_faces
from psamf_edge.compile.data.speech import SpeechSet, load_speech
from psamf_edge.compile.data.text import TextSet, read_text_set
from psamf_edge.compile.data.valence import side_of
from psamf_edge.face.features import FacePath
from psamf_edge.plan import Features
from psamf_edge.words.wordpiece import WordPiece

SIDES = {-1: "negative", 0: "neutral", 1: "positive"}
COMPANY = {"voice": (1, 1, 0), "face": (1, 0, 1), "voice and face": (1, 1, 1)}  # present: text, audio, face
NORMAL_95 = 1.96  # the mean of a hundred shifts or more is as good as normal


def measure(backend: Backend, text: TextSet, speech: SpeechSet, faces: FaceSet) -> list[dict]:
    """A row for each side of the words, each company, and each side of the company.

    Args:
        text, speech, faces: of the validation split.
    """
    composer = Composer(text, speech, faces, np.random.default_rng(0), augment=False)
    found: dict[tuple[int, str, int], list[tuple[float, float, float]]] = {}  # score alone, shift, shift of the label
    for ids, label in zip(text.ids, text.labels, strict=True):
        alone = backend.run(Features(ids)).score
        for side in SIDES:
            (voice, heard), (face, seen) = composer.voice(side), composer.face(side)
            labels = np.array([label, heard, seen])
            for name, present in COMPANY.items():
                together = backend.run(Features(ids, voice if present[1] else None, face if present[2] else None)).score
                asked = combine(labels, np.array(present)) - label
                found.setdefault((side_of(label), name, side), []).append((alone, together - alone, asked))
    order = [(words, name, side) for words in SIDES for name in COMPANY for side in SIDES]
    return [row_of(key, np.array(found[key])) for key in order if key in found]


def row_of(key: tuple[int, str, int], values: np.ndarray) -> dict:
    """One row from the scores alone, the shifts and the shifts of the labels, (n, 3)."""
    words, name, side = key
    alone, shift, asked = values.T
    n, mean = len(shift), float(shift.mean())
    half = NORMAL_95 * float(shift.std(ddof=1)) / n**0.5 if n > 1 else None
    row = {
        "words": SIDES[words],
        "with": name,
        "company": SIDES[side],
        "relation": "agrees" if side == words else "conflicts" if side * words else "neutral" if not side else "sided",
        "n": n,
        "words_alone": round(float(alone.mean()), 4),
        "together": round(float((alone + shift).mean()), 4),
        "shift": round(mean, 4),
        "interval": None if half is None else [round(mean - half, 4), round(mean + half, 4)],
        "label_shift": round(float(asked.mean()), 4),  # what the labels of training would have it be
    }
    if side and side != words:  # elsewhere no direction is right: the label stays the sentence's
        row["right_share"] = round(float(np.mean(shift * side > 0)), 4)
        row["direction"] = direction(mean * side, half)
    return row


def direction(towards: float, half: float | None) -> str:
    """Whether a mean shift towards where it should go is told from none: right, wrong or unclear."""
    if half is None or abs(towards) <= half:
        return "unclear"
    return "right" if towards > 0 else "wrong"


def read_corpora(bundle: Bundle, data: Path, names: list[str]) -> list[TextSet]:
    """Validation sentences as the bundle's own vocabulary has them."""
    wordpiece = WordPiece(bundle.read("vocab.txt"))
    limit = bundle.shapes.max_tokens
    return [read_text_set(data / name / "labels.csv", "valid", wordpiece, limit) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with mosi/, mosei/, speech/ and faces/")
    parser.add_argument("--bundle", type=Path, help="a bundle (the default bundle)")
    parser.add_argument("--corpora", nargs="+", choices=("mosi", "mosei"), default=["mosi", "mosei"])
    parser.add_argument("--features", type=Path, help="folder with speech.npz and faces-valid.npz (computed anew)")
    chosen = parser.parse_args()
    bundle = open_bundle(chosen.bundle)
    with tempfile.TemporaryDirectory() as temporary:
        features = chosen.features or Path(temporary)
        speech = load_speech(chosen.data / "speech", features / "speech.npz")
        pictures = chosen.data / "faces" / "fer2013_valid.npz"
        faces = load_faces(pictures, FacePath.open(bundle.read), features / "faces-valid.npz")
    voices, corpora = speech.select(speech.validation), {}
    with open_backend(bundle, "cpu") as backend:
        for text in read_corpora(bundle, chosen.data, chosen.corpora):
            corpora[text.name] = measure(backend, text, voices, faces)
            print(describe({text.name: corpora[text.name]}), file=sys.stderr)
    model = {"name": bundle.name, "precision": bundle.precision}
    save("conflicts", {"machine": machine(), "model": model, "corpora": corpora})
    print(json.dumps(corpora, indent=2))


if __name__ == "__main__":
    main()
