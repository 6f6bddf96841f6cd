"""A model whose scores can be worked out by hand, behind the real tokenizer and the real face detector."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from psamf_edge.analyzer import Analyzer
from psamf_edge.bundle import Shapes
from psamf_edge.face.expression import EXPRESSION_SIZE
from psamf_edge.plan import Features, Outputs, check_features

WEIGHTS = Path(__file__).parents[1] / "compile" / "weights" / "default"
FACE_RATE = 2  # frames a second: the tests are about the way of a frame, not about many
SHAPES = Shapes(
    hidden=384, width=64, vocabulary=30522, audio_features=63, face_features=69, audio_stride=8, face_stride=1,
    audio_hop_ms=10, face_rate=FACE_RATE, max_tokens=32, max_audio_hops=600, max_face_frames=6 * FACE_RATE,
)  # fmt: skip
WORTH = {"text": 1.0, "audio": 0.5, "face": -0.25}  # what the presence of a modality adds to the score


class FakeBackend:
    """Scores presence and nothing else. `seen`: what it was given."""

    name, precision, note = "onnxruntime", "fp32", None

    def __init__(self) -> None:
        self.seen: list[Features] = []
        self.is_open = True

    def run(self, features: Features) -> Outputs:
        check_features(features, SHAPES)
        self.seen.append(features)
        contributions = {name: WORTH[name] for name in features.present}
        return Outputs(sum(contributions.values()), 0.75, contributions)

    def close(self) -> None:
        self.is_open = False


class FakeExpression:
    """In place of the expression net: the brightness of each crop in every dimension."""

    def __init__(self, onnx_bytes: bytes) -> None:
        assert onnx_bytes == b"expression"

    def embed(self, crops: np.ndarray) -> np.ndarray:
        return np.repeat(crops.reshape(len(crops), -1).mean(axis=1, keepdims=True), EXPRESSION_SIZE, axis=1)


def open_fake(monkeypatch: pytest.MonkeyPatch) -> Analyzer:
    """An analyzer with the fake backend."""
    from psamf_edge import scorer

    def read(name: str) -> bytes:
        return b"expression" if name == "expression.onnx" else (WEIGHTS / name).read_bytes()

    bundle = SimpleNamespace(read=read, shapes=SHAPES, name="fake", manifest_sha256="ab" * 32, precision="fp32")
    monkeypatch.setattr(scorer, "open_bundle", lambda path, require_signature: bundle)
    monkeypatch.setattr(scorer, "open_backend", lambda bundle, device, threads: FakeBackend())
    monkeypatch.setattr("psamf_edge.face.features.ExpressionNet", FakeExpression)
    return Analyzer()


def backend_of(analyzer: Analyzer) -> FakeBackend:
    return analyzer._scorer._backend
