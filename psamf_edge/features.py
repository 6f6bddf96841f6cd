"""What one dimension of a feature vector is: the record that the audio and face features document themselves with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One named dimension. `unit` is a physical unit ("dB", "Hz", "rad") or "1" for a ratio."""

    name: str
    unit: str
    description: str
