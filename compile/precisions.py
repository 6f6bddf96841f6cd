"""The precisions by their names."""

from __future__ import annotations

PRECISIONS = {
    "cpu": ("int8", "fp32"),
    "rtx": ("fp16", "fp32", "int8", "int8-weights", "fp8"),
    "tensorrt": ("fp16", "fp32", "int8", "int8-weights", "fp8"),
}  # the first is the default
EIGHT_BITS = ("int8", "int8-weights", "fp8")  # on a GPU with float16 around them


def is_calibrated(precision: str, target: str) -> bool:
    """Whether activations have ranges, which takes data. A CPU finds those of its int8 as they come."""
    return target != "cpu" and precision in ("int8", "fp8")
