"""The cross-modal attention block in float64 NumPy: the oracle for the model's module, and for any kernel after it.

Textbook form on purpose: keys and values are formed, nothing is folded, padding is cut off and not masked.
"""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray


def _norm(x: ndarray, weight: ndarray, bias: ndarray, eps: float = 1e-5) -> ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + eps) * weight + bias


def _gelu(x: ndarray) -> ndarray:
    erf = np.vectorize(math.erf, otypes=[float])
    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))


def cross_modal_attention(query: ndarray, memory: ndarray, weights: dict[str, ndarray], heads: int = 2) -> ndarray:
    """One text query over the valid steps of one modality (arXiv 2512.01442, as the figure draws it).

    Args:
        query: (d,), the projected CLS of the text.
        memory: (T, d), the valid steps alone; T = 0 is a missing modality and gives no context.
        weights: the state of `compile.model.attention.CrossModalBlock`, as float64 arrays.
        heads: number of heads; each has d / heads dimensions.

    Returns:
        (d,): attention, add and norm with the query, feed-forward, add and norm.
    """
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    d = len(query)
    context = np.zeros(d)
    if len(memory):
        q = w["attention.query.weight"] @ query + w["attention.query.bias"]  # (d,)
        k = memory @ w["attention.key.weight"].T + w["attention.key.bias"]  # (T, d)
        v = memory @ w["attention.value.weight"].T + w["attention.value.bias"]  # (T, d)
        for part in np.split(np.arange(d), heads):
            scores = k[:, part] @ q[part] / np.sqrt(len(part))  # (T,)
            share = np.exp(scores - scores.max())
            context[part] = share / share.sum() @ v[:, part]
        context = w["attention.out.weight"] @ context + w["attention.out.bias"]
    x = _norm(query + context, w["norm.weight"], w["norm.bias"])
    hidden = _gelu(w["feed_forward.0.weight"] @ x + w["feed_forward.0.bias"])  # (4d,)
    x = x + w["feed_forward.2.weight"] @ hidden + w["feed_forward.2.bias"]
    return _norm(x, w["feed_forward_norm.weight"], w["feed_forward_norm.bias"])
