"""Samples as one file without pickle, and back: how features that took long to make are kept."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence

import numpy as np

from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.plan import Features

ARRAYS = ("ids", "audio", "face")  # of Features


def samples_to_files(samples: Sequence[Sample]) -> dict[str, bytes]:
    """samples.npz with the arrays, samples.json with the names and labels."""
    arrays = {
        f"{number}.{name}": getattr(sample.features, name)
        for number, sample in enumerate(samples)
        for name in ARRAYS
        if getattr(sample.features, name) is not None
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    table = json.dumps([[sample.name, sample.label] for sample in samples])
    return {"samples.npz": buffer.getvalue(), "samples.json": table.encode()}


def samples_from_files(files: Mapping[str, bytes]) -> list[Sample]:
    """What `samples_to_files` was given."""
    with np.load(io.BytesIO(files["samples.npz"]), allow_pickle=False) as arrays:
        return [
            Sample(name, Features(*(arrays.get(f"{number}.{kind}") for kind in ARRAYS)), label)
            for number, (name, label) in enumerate(json.loads(files["samples.json"]))
        ]
