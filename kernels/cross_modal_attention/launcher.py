"""How the kernel is launched, for whoever has a driver: entry, grid, block. Its arguments are at the end of kernel.cu.

Every pointer must be aligned to 16 bytes, as any allocation of CUDA is. Only the steps that `lengths` calls valid are
read; every number of `contexts` is written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from psamf_edge.errors import UsageError

SOURCE = Path(__file__).with_name("kernel.cu")
ENTRIES = {
    np.dtype(np.float32): "psamf_cross_modal_attention_f32",
    np.dtype(np.float16): "psamf_cross_modal_attention_f16",
}
BLOCK = (256, 1, 1)  # threads: eight warps, as kernel.cu's THREADS
SHARED = 0  # bytes of dynamic shared memory: all of it is static
_MOST_SUBSETS = 65535  # of a grid's second axis


def entry(dtype: DTypeLike) -> str:
    """The kernel's name for float32 or float16. Raises UsageError: any other type."""
    try:
        return ENTRIES[np.dtype(dtype)]
    except KeyError:
        raise UsageError(f"The kernel computes in float32 or float16, not in {np.dtype(dtype)}.") from None


def launch_shape(B: int, S: int, Ta: int, Tv: int) -> tuple[tuple[int, int, int], tuple[int, int, int], int]:
    """Grid, block and bytes of dynamic shared memory: one block of threads for each query and modality.

    Args:
        B: batch, at least 1.
        S: queries of a sample, 1 to 65535.
        Ta: steps of the voice, 0 or more.
        Tv: steps of the face, 0 or more.

    Raises:
        UsageError: a size is out of its range.
    """
    if B < 1 or not 1 <= S <= _MOST_SUBSETS or Ta < 0 or Tv < 0:
        raise UsageError(
            f"The kernel takes B >= 1, 1 <= S <= {_MOST_SUBSETS}, Ta >= 0 and Tv >= 0; it was given"
            f" {B}, {S}, {Ta}, {Tv}."
        )
    return (B, S, 2), BLOCK, SHARED
