"""What a calibration gives to all that lowers a model: how activations are quantised, and inputs to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psamf_edge.compile.quantisation.ranges import Activations
from psamf_edge.plan import Tensors


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    activations: how each is quantised.
    inputs: of a segment's name: what it was given in float32 for some of the samples. Ranges hold for such inputs, and
        not for random ones, which no encoder gives.
    record: for the manifest.
    """

    activations: Activations
    inputs: Mapping[str, Sequence[Tensors]]
    record: Mapping[str, Any]
