"""Length buckets: shapes are rounded up to a few sizes, so that the CUDA graph of one utterance serves the next.

Only raw features are padded, and with each goes a mask that says how much of it is real: `ids` has `text_mask`, `audio`
has `audio_mask`, `face` has `face_mask`. Behind the mask the model multiplies by zero before a convolution and adds
-1e4 before a softmax, so padding changes a score by no more than rounding. Everything else keeps its exact shape: the
rows of `present`, and the one masked step that stands for a missing modality.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MASK_OF = {"ids": "text_mask", "audio": "audio_mask", "face": "face_mask"}
# Below 16 tokens, or 16 steps of 10 ms, launches are all that an engine's time consists of.
SMALLEST = 16
ALIGNMENT = 256  # bytes: what TensorRT asks of its scratch memory, and what cudaMalloc gives every buffer

Shape = tuple[int, ...]
Shapes = dict[str, Shape]  # of tensors by name
Range = tuple[int, int]  # the least and the greatest size that an engine was built for


def rung(size: int, allowed: Range) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that holds `size`, kept inside the range that the engine takes.

    Two rungs to an octave: at most half as much again is computed, and 30 s of voice have 16 rungs.
    """
    least, greatest = allowed
    power = SMALLEST
    while power < size:
        power *= 2
    between = power * 3 // 4
    fits = between if size <= between and power > SMALLEST else power
    return min(max(fits, least), greatest)


def bucket_shapes(host: Mapping[str, np.ndarray], lengths: Mapping[str, Range]) -> Shapes:
    """The shape that each tensor from the host has in its bucket.

    Args:
        host: what `plan.score` hands to the steps, by name.
        lengths: of each feature in MASK_OF that the plan takes, the range of axis 1.
    """
    shapes = {name: value.shape for name, value in host.items()}
    for feature, mask in MASK_OF.items():
        if feature in host:
            length = rung(host[feature].shape[1], lengths[feature])
            for name in (feature, mask):
                shapes[name] = (shapes[name][0], length, *shapes[name][2:])
    return shapes


def fill(view: np.ndarray, value: np.ndarray) -> None:
    """Write a value into the larger array of its bucket, with zeros behind it: padding, and a mask that says so."""
    view[:, : value.shape[1]] = value
    view[:, value.shape[1] :] = 0


def aligned(size: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT
