"""The block's weights as the kernel reads them: folded, transposed, one row of numbers for each modality.

With one query, the projections of the memory move to the query's side (README.md):

    score of head h   = (t W_q,h + b_q,h) W_k,h^T m / sqrt(32)   ->  (t @ key_query + key_query_bias)_h . m
    context           = W_o (W_v mean_h m + b_v) + b_o           ->  joined means @ value_out + value_out_bias
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
from numpy import ndarray

from psamf_edge.errors import UsageError

WIDTH, HEADS, HIDDEN = 64, 2, 256  # of the model as published; the kernel is compiled for these alone

_SHAPES = {  # matrices are (in, out), so that x @ W is the product and neighbouring threads read neighbouring numbers
    "key_query": (WIDTH, HEADS * WIDTH),
    "key_query_bias": (HEADS * WIDTH,),
    "value_out": (HEADS * WIDTH, WIDTH),
    "value_out_bias": (WIDTH,),
    "norm_weight": (WIDTH,),
    "norm_bias": (WIDTH,),
    "up": (WIDTH, HIDDEN),
    "up_bias": (HIDDEN,),
    "down": (HIDDEN, WIDTH),
    "down_bias": (WIDTH,),
    "output_norm_weight": (WIDTH,),
    "output_norm_bias": (WIDTH,),
}
_ENDS = list(accumulate(math.prod(shape) for shape in _SHAPES.values()))

# name -> (offset in numbers, shape)
LAYOUT = {name: (end - math.prod(shape), shape) for (name, shape), end in zip(_SHAPES.items(), _ENDS, strict=True)}
ROW = _ENDS[-1]  # 49920: a multiple of 64, so both rows start on a line of L2


def pack(state: dict[str, ndarray], heads: int = HEADS) -> ndarray:
    """One modality's row, folded in float64 and rounded once.

    Args:
        state: of `compile.model.attention.CrossModalBlock`, as NumPy arrays by name.
        heads: of the block.

    Returns:
        (ROW,) float32.

    Raises:
        UsageError: an array is missing, or the block has another size than the kernel.
    """
    try:
        w = {name: np.asarray(value, np.float64) for name, value in state.items()}
        folded = _fold(w, heads)
    except (KeyError, ValueError) as error:
        raise UsageError(f"These are not the weights of a cross-modal attention block: {error}.") from error
    wrong = [f"{name} {folded[name].shape}" for name, shape in _SHAPES.items() if folded[name].shape != shape]
    if wrong:
        raise UsageError(
            f"The kernel takes a block of width {WIDTH} with {HEADS} heads and {HIDDEN} hidden numbers; after folding,"
            f" this one has {', '.join(wrong)}."
        )
    return np.concatenate([folded[name].ravel() for name in LAYOUT]).astype(np.float32)


def _fold(w: dict[str, ndarray], heads: int) -> dict[str, ndarray]:
    def by_head(name: str) -> ndarray:
        return np.stack(
            np.split(w[f"attention.{name}"], heads)
        )  # rows of a (d, d) matrix or (d,) bias: (h, d / h, ...)

    query, query_bias = by_head("query.weight"), by_head("query.bias")
    key, value = by_head("key.weight"), by_head("value.weight")  # (h, d / h, d)
    out = np.stack(np.split(w["attention.out.weight"].T, heads))  # (h, d / h, d), transposed
    scale = 1.0 / math.sqrt(key.shape[1])
    return {
        "key_query": np.concatenate(query.transpose(0, 2, 1) @ key * scale, axis=1),  # (d, h d)
        "key_query_bias": np.concatenate([b @ k * scale for b, k in zip(query_bias, key, strict=True)]),  # (h d,)
        "value_out": np.concatenate(value.transpose(0, 2, 1) @ out),  # (h d, d)
        "value_out_bias": w["attention.out.weight"] @ w["attention.value.bias"] + w["attention.out.bias"],
        "norm_weight": w["norm.weight"],
        "norm_bias": w["norm.bias"],
        "up": w["feed_forward.0.weight"].T,
        "up_bias": w["feed_forward.0.bias"],
        "down": w["feed_forward.2.weight"].T,
        "down_bias": w["feed_forward.2.bias"],
        "output_norm_weight": w["feed_forward_norm.weight"],
        "output_norm_bias": w["feed_forward_norm.bias"],
    }


def fields(row: ndarray) -> dict[str, ndarray]:
    """The named arrays of a packed row, as views into it.

    Raises:
        UsageError: the row has another length than ROW.
    """
    if row.shape != (ROW,):
        raise UsageError(f"A packed row has the shape ({ROW},), and this one {row.shape}.")
    return {name: row[at : at + math.prod(shape)].reshape(shape) for name, (at, shape) in LAYOUT.items()}
