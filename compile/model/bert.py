"""The blocks of BERT that the trunk is made of, written out so that each export and each mask is ours to see.

Parameter names follow this file; pretrained.py maps them from Hugging Face checkpoints of BERT and of MPNet.
tests/test_model_bert.py compares the outputs with transformers' BertModel and MPNetModel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from psamf_edge.compile.model.attention import MASKED, FoldedAttention

if TYPE_CHECKING:
    from psamf_edge.compile.model.pretrained import Pretrained


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT encoder; the defaults are those of all-MiniLM-L6-v2."""

    vocabulary: int = 30522
    width: int = 384
    heads: int = 12
    feed_forward: int = 1536
    blocks: int = 6
    positions: int = 512
    norm_eps: float = 1e-12
    relative_buckets: int = 0  # of the distances between two tokens, see RelativeBias; BERT has none


class RelativeBias(nn.Module):
    """MPNet's learned bias of attention scores by how far the key stands from the query, for each head (T5's, Raffel et
    al. 2020): half of the buckets for each direction, near distances one by one and far ones by their logarithm.
    """

    FAR = 128  # tokens; all distances from here share the last bucket

    def __init__(self, buckets: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets, heads)

    def forward(self, length: int) -> Tensor:
        """(1, h, length, length): row of the query, column of the key."""
        places = torch.arange(length, device=self.table.weight.device)
        distance = places[:, None] - places[None, :]  # (L, L), positive where the key comes before the query
        side = self.table.num_embeddings // 2
        near = side // 2
        size = distance.abs()
        logarithm = torch.log(size.clamp(min=1) / near) / math.log(self.FAR / near)  # 0 at `near`, 1 at FAR
        far = (near + logarithm * (side - near)).long().clamp(max=side - 1)
        bucket = torch.where(size < near, size, far) + side * (distance < 0)
        return self.table(bucket).permute(2, 0, 1).unsqueeze(0)


class Embeddings(nn.Module):
    """Token plus position embedding, normalised. The constant segment embedding is added to the positions at load."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, L) -> (B, L, H)."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.norm(self.token(ids) + self.position(positions))


class Block(nn.Module):
    """One encoder block, normalised after each residual."""

    def __init__(self, config: BertConfig, dropout: float) -> None:
        super().__init__()
        # the projections live in FoldedAttention, so that the block can also answer for single queries (see `query`)
        self.attention = FoldedAttention(config.width, config.heads)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.up = nn.Linear(config.width, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, config.width)
        self.output_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Whole-sequence form: x (B, L, H), bias (B, 1 or h, 1 or L, L) added to the scores -> (B, L, H)."""
        B, L, H = x.shape
        a = self.attention
        q, k, v = (p(x).view(B, L, a.heads, a.head_width).transpose(1, 2) for p in (a.query, a.key, a.value))
        scores = q @ k.transpose(2, 3) / math.sqrt(a.head_width) + bias  # (B, h, L, L)
        context = self.dropout(torch.softmax(scores, dim=3)) @ v  # (B, h, L, w)
        return self._finish(x, a.out(context.transpose(1, 2).reshape(B, L, H)))

    def query(self, cls: Tensor, tokens: Tensor, token_bias: Tensor, own: Tensor, own_bias: Tensor) -> Tensor:
        """The same block, answered for S query tokens only: all that is needed where nothing but CLS is read.

        cls (B, S, H), tokens (B, L, H), token_bias (B, S, L), own (B, S, O, H), own_bias (B, S, O) -> (B, S, H).
        """
        context, _ = self.attention(cls, tokens, token_bias, own, own_bias)
        return self._finish(cls, context)

    def _finish(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.norm(x + self.dropout(context))
        return self.output_norm(x + self.dropout(self.down(nn.functional.gelu(self.up(x)))))


def attention_bias(mask: Tensor) -> Tensor:
    """Mask (B, L) of 0 and 1 -> what `Block` adds to its scores (B, 1, 1, L)."""
    return ((1.0 - mask) * MASKED)[:, None, None, :]


class Trunk(nn.Module):
    """Embeddings and the first N blocks: token ids to hidden states."""

    def __init__(self, config: BertConfig, blocks: int, dropout: float) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.relative = RelativeBias(config.relative_buckets, config.heads) if config.relative_buckets else None
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)

    def load(self, pretrained: Pretrained, blocks: int | None = None) -> None:
        """Take over pre-trained weights, in the first `blocks` blocks (all where None)."""
        self.embeddings.load_state_dict(pretrained.embeddings)
        if self.relative is not None:
            self.relative.load_state_dict(pretrained.relative)
        known = pretrained.blocks[: len(self.blocks) if blocks is None else blocks]
        for block, state in zip(self.blocks, known, strict=False):
            block.load_state_dict(state)

    def bias(self, mask: Tensor, others: int = 0) -> Tensor:
        """What the blocks add to their scores: mask (B, L) of L - `others` tokens and then of others, which stand
        nowhere and have no distance -> (B, 1 or h, 1 or L, L).
        """
        bias = attention_bias(mask)
        if self.relative is None:
            return bias
        return bias + nn.functional.pad(self.relative(mask.shape[1] - others), (0, others, 0, others))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, L) int64, mask (B, L) of 0 and 1 -> hidden states after the last block (B, L, H)."""
        bias = self.bias(mask)
        x = self.dropout(self.embeddings(ids))  # (B, L, H)
        for block in self.blocks:
            x = block(x, bias)
        return x
