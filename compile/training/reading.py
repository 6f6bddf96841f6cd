"""Sentences for a model that only reads them: each once, in batches of like length so that little is padding.

A large model takes hours over many sentences: what it says is kept after each block of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.training.device import to_tensors

BLOCK = 1 << 13  # sentences; a multiple of every batch


def blocks_by_length(sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Rows of the sentences, token ids (L_i,), in blocks. What `by_length` makes of each are its batches of all, and so
    a model says the same to the last bit; a single block keeps the order that it was given in.
    """
    if len(sentences) <= BLOCK:
        return [np.arange(len(sentences))]
    order = np.argsort([len(ids) for ids in sentences], kind="stable")
    return np.split(order, range(BLOCK, len(order), BLOCK))


def by_length(
    sentences: Sequence[np.ndarray], batch: int, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Rows (B,) of the sentences, token ids (L_i,), the shortest first; on the device their ids (B, L) and mask (B, L)
    of 0 and 1.
    """
    order = np.argsort([len(ids) for ids in sentences], kind="stable")
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        yield rows, *to_tensors(pad([sentences[i] for i in rows], np.int64), device)
