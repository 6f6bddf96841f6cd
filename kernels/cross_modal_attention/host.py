"""The shipped kernel on the CPU, for tests and for machines without a GPU. What that cannot show: see kernels/host."""

from __future__ import annotations

import functools

import numpy as np
from numpy import ndarray

from psamf_edge.errors import UsageError
from psamf_edge.kernels.cross_modal_attention.launcher import ENTRIES, SOURCE, entry, launch_shape
from psamf_edge.kernels.cross_modal_attention.packing import ROW, WIDTH
from psamf_edge.kernels.host.host import HostKernel


@functools.cache
def _kernel() -> HostKernel:
    return HostKernel(SOURCE, tuple(ENTRIES.values()))


def run(query: ndarray, audio: ndarray, face: ndarray, lengths: ndarray, weights: ndarray, *, seed: int = 0) -> ndarray:
    """Both modalities' contexts.

    Args:
        query: (B, S, 64), float32 or float16.
        audio: (B, Ta, 64) of the same type, valid steps first; what lies behind them is not read.
        face: (B, Tv, 64), likewise.
        lengths: (B, S, 2) int32, valid steps of voice and face; 0 for a missing modality.
        weights: (2, ROW) of the same type, packed.
        seed: of the order of threads, see HostKernel.launch.

    Returns:
        (2, B, S, 64): heard, seen.

    Raises:
        UsageError: a shape or a type is wrong.
        MissingDependencyError: there is no g++.
    """
    B, S = query.shape[:2] if query.ndim == 3 else (-1, -1)
    Ta, Tv = (steps.shape[1] if steps.ndim == 3 else -1 for steps in (audio, face))
    allowed = {
        "query": (query, (B, S, WIDTH), query.dtype),
        "audio": (audio, (B, Ta, WIDTH), query.dtype),
        "face": (face, (B, Tv, WIDTH), query.dtype),
        "lengths": (lengths, (B, S, 2), np.dtype(np.int32)),
        "weights": (weights, (2, ROW), query.dtype),
    }
    for name, (array, shape, dtype) in allowed.items():
        if array.shape != shape or array.dtype != dtype:
            raise UsageError(f"{name} should be {dtype} of {shape}, and is {array.dtype} of {array.shape}.")
    grid, block, _ = launch_shape(B, S, Ta, Tv)
    name = entry(query.dtype)
    contexts = np.full((2, B, S, WIDTH), np.nan, query.dtype)
    arrays = [np.ascontiguousarray(array) for array in (query, audio, face, lengths, weights)]
    _kernel().launch(name, grid, block, [*arrays, B, S, Ta, Tv, contexts], seed)
    return contexts
