"""Attention of a few queries over a long memory, without ever forming keys or values.

With S queries and T memory steps, S much smaller than T, the projections of the memory can be moved to the query side:

    softmax(q (W_k m)^T) (W_v m)  =  W_v (softmax((W_k^T q) m^T) m)

so W_k is folded into the query and W_v is applied to the weighted mean: S * D^2 multiplications in place of T * D^2.
The key bias adds the same number to every score of a query and cancels in the softmax; the value bias survives, because
the weights sum to one. Equal to the textbook form up to rounding (tests/test_model_attention.py holds it in float64).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MASKED = -1e4  # finite, so that a fully masked row has no NaN, and inside the range of float16


class FoldedAttention(nn.Module):
    """Multi-head attention with folded projections. Memory may have a shared part and a part of each query's own.

    Args:
        width: D, of queries and memory.
        heads: h; each has D / h dimensions.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)  # its bias cancels; kept so that pre-trained weights load whole
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        query: Tensor,
        memory: Tensor,
        memory_bias: Tensor,
        own: Tensor | None = None,
        own_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend from each query to the memory, and to the tokens that only this query sees.

        Args:
            query: (B, S, D).
            memory: (B, T, D), shared by the S queries of a sample.
            memory_bias: (B, S, T), 0 where the query may look and MASKED where not.
            own: (B, S, O, D) further memory of each query alone, or None.
            own_bias: (B, S, O), likewise.

        Returns:
            The projected context (B, S, D) and the weights (B, S, h, T + O).
        """
        B, S, D = query.shape
        T = memory.shape[1]
        h, w = self.heads, self.head_width
        # heads before queries: one product for each head serves all queries, and reads the head's weights once
        q = self.query(query).view(B, S, h, w).transpose(1, 2) / math.sqrt(w)  # (B, h, S, w)
        u = q @ self.key.weight.view(h, w, D)  # (B, h, S, D): W_k folded into the query
        scores = (u.reshape(B, h * S, D) @ memory.transpose(1, 2)).view(B, h, S, T) + memory_bias.unsqueeze(1)
        if own is not None:
            own_scores = u.transpose(1, 2) @ own.transpose(2, 3)  # (B, S, h, O)
            scores = torch.cat([scores, own_scores.transpose(1, 2) + own_bias.unsqueeze(1)], dim=3)
        weights = torch.softmax(scores, dim=3)  # (B, h, S, T + O)
        mean = (weights[..., :T].reshape(B, h * S, T) @ memory).view(B, h, S, D)
        if own is not None:
            mean = mean + (weights[..., T:].transpose(1, 2) @ own).transpose(1, 2)
        values = self.value.weight.view(h, w, D).transpose(1, 2)  # (h, D, w)
        context = (mean @ values).transpose(1, 2).reshape(B, S, D) + self.value.bias
        return self.out(context), weights.transpose(1, 2)


class CrossModalAttention(nn.Module):
    """One text query over the steps of a voice or a face, and nothing after it: PSA-MF's release.

    A query with no step to look at gets a context of zeros.
    """

    def __init__(self, width: int = 64, heads: int = 2) -> None:
        super().__init__()
        self.attention = FoldedAttention(width, heads)

    def forward(self, query: Tensor, memory: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """query (B, S, d), memory (B, T, d), valid (B, S, T) of 0 and 1 -> ((B, S, d), weights (B, S, h, T))."""
        context, weights = self.attention(query, memory, (1.0 - valid) * MASKED)
        return context * valid.amax(dim=2, keepdim=True), weights  # nothing valid: no context


class CrossModalBlock(CrossModalAttention):
    """PSA-MF's cross-modal attention as its figure draws it: attention, add and norm with the query, feed-forward, add
    and norm. With no step to look at it is a function of the query alone.
    """

    def __init__(self, width: int = 64, heads: int = 2, dropout: float = 0.1) -> None:
        super().__init__(width, heads)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """As CrossModalAttention."""
        context, weights = super().forward(query, memory, valid)
        x = self.norm(query + self.dropout(context))  # (B, S, d)
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x))), weights
