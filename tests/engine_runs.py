"""What tests of the engines' source and of their cache share: score with a bundle, and see what was built and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_tensorrt import FakeTensorRT
from small_bundle import expected, words

from psamf_edge.backends import open_backend
from psamf_edge.bundle import Bundle

BOTH = ["ids", "pooled"]  # the first inputs of the two segments


def runs(bundle: Bundle, device: str = "cuda") -> str | None:
    """Score with it, and return what it had to say."""
    with open_backend(bundle, device) as backend:
        assert backend.name == "tensorrt"
        assert backend.run(words(3, 9, 31)).score == pytest.approx(expected(3, 9, 31), abs=1e-6)
        return backend.note


def built(trt: FakeTensorRT) -> list[str]:
    """What was built since the last call."""
    made, trt.builder.built = trt.builder.built, []
    return made


def entries(cache: Path, ending: str) -> list[Path]:
    return sorted((cache / "engines").glob(f"*.{ending}"))
