"""The sizes that engines are built for: one optimisation profile over the named axes of a plan's tensors.

An ONNX segment names its dynamic axes, and TensorRT's parser passes the names on, so that a bundle's shapes are all
that an engine needs besides its ONNX file. Export uses the same ranges (psamf_edge.compile.export.segments).
"""

from __future__ import annotations

import math

from psamf_edge.bundle import Shapes

TOKENS, HOPS, FRAMES, SUBSETS = "tokens", "hops", "frames", "subsets"  # the dynamic axes of the inputs
AUDIO_STEPS, FACE_STEPS = "audio_strides", "face_strides"  # what the encoders' strides leave of hops and frames
# of the utterance that engines are tuned for: a sentence of ten seconds with all modalities
USUAL = {TOKENS: 50, HOPS: 1000, FRAMES: 100}  # hops are 10 ms, frames 100 ms
Ranges = dict[str, tuple[int, int, int]]  # of each dynamic axis: its least, usual and greatest size


def axis_ranges(tokens: int, hops: int, frames: int, audio_stride: int, face_stride: int) -> Ranges:
    """What each dynamic axis may be, where tokens, hops and frames are the greatest sizes of an utterance."""
    ranges = {
        axis: (1, min(USUAL[axis], longest), longest)
        for axis, longest in ((TOKENS, tokens), (HOPS, hops), (FRAMES, frames))
    }

    def strided(axis: str, stride: int) -> tuple[int, int, int]:
        least, usual, longest = (math.ceil(size / stride) for size in ranges[axis])
        return least, usual, longest

    return {
        **ranges,
        SUBSETS: (1, 4, 4),  # everything, and everything but each of three
        AUDIO_STEPS: strided(HOPS, audio_stride),
        FACE_STEPS: strided(FRAMES, face_stride),
    }


def ranges_of(shapes: Shapes) -> Ranges:
    """The ranges of a bundle's engines."""
    return axis_ranges(
        shapes.max_tokens, shapes.max_audio_hops, shapes.max_face_frames, shapes.audio_stride, shapes.face_stride
    )
