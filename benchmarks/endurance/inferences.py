"""The model alone, again and again on the same utterances, in another order each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.endurance.readings import judge, read
from psamf_edge.backends import open_backend
from psamf_edge.bundle import Shapes, open_bundle
from psamf_edge.plan import Features

SUBSETS = ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))  # over MODALITIES
# the least that one could leave behind, an Outputs with its numbers, takes four times this
MOST_BYTES_EACH = {"resident_mb": 100}


def utterances(shapes: Shapes, count: int, seed: int) -> list[Features]:
    """Random words, voice and face of random lengths, up to what the model takes; every subset in turn."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        text, audio, face = SUBSETS[index % len(SUBSETS)]
        share = rng.random()
        hops = max(1, round(share * shapes.max_audio_hops))
        frames = max(1, round(share * shapes.max_face_frames))
        made.append(
            Features(
                rng.integers(0, shapes.vocabulary, rng.integers(1, shapes.max_tokens + 1)) if text else None,  # (L,)
                rng.normal(size=(hops, shapes.audio_features)).astype(np.float32) if audio else None,  # (Ta, 63)
                rng.normal(size=(frames, shapes.face_features)).astype(np.float32) if face else None,  # (Tv, F)
            )
        )
    return made


def run(inferences: int, each: int = 250, bundle: Path | None = None, seed: int = 0) -> dict:
    """Score `each` utterances until `inferences` are done, with a reading after each pass.

    Returns:
        the record of the section; `complaints` is empty where all is well.
    """
    opened = open_bundle(bundle)
    inputs = utterances(opened.shapes, each, seed)
    order = np.random.default_rng(seed)
    readings, differing = [], 0
    with open_backend(opened, "cpu") as backend:
        first = [backend.run(features) for features in inputs]
        readings.append(read(each))
        while readings[-1].done < inferences:
            for index in order.permutation(each):
                differing += backend.run(inputs[index]) != first[index]
            readings.append(read(readings[-1].done + each))
    figures, complaints = judge(readings, MOST_BYTES_EACH)
    if differing:
        complaints.append(f"{differing} of {readings[-1].done} inferences gave another score than the first time.")
    return {
        "inferences": readings[-1].done,
        "utterances": each,
        "differing_scores": differing,
        "complaints": complaints,
        **figures,
    }
