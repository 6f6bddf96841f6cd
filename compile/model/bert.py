"""The blocks of BERT that the trunk is made of, written out so that each export and each mask is ours to see.

Parameter names follow this file; `load_bert` maps them from any Hugging Face BERT checkpoint directory (config.json and
model.safetensors). tests/test_model_bert.py compares the outputs with transformers' BertModel.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from psamf_edge.compile.model.attention import MASKED, FoldedAttention
from psamf_edge.errors import UsageError


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
        """Whole-sequence form: x (B, L, H), bias (B, 1, 1, L) added to the scores -> (B, L, H)."""
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
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, L) int64, mask (B, L) of 0 and 1 -> hidden states after the last block (B, L, H)."""
        bias = attention_bias(mask)
        x = self.dropout(self.embeddings(ids))  # (B, L, H)
        for block in self.blocks:
            x = block(x, bias)
        return x


_RENAMED = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
}


CHECKPOINT = ("config.json", "model.safetensors")


def find_bert(name: str | Path) -> Path:
    """A checkpoint directory: `name` itself where it is one, else the Hugging Face hub's copy, fetched once.

    Raises:
        UsageError: neither a directory nor a repository that the hub gives out.
    """
    if Path(name).is_dir():
        return Path(name)
    import huggingface_hub  # comes with transformers; only who names a hub repository needs a network

    try:
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=[*CHECKPOINT, "vocab.txt"]))
    except (OSError, ValueError) as error:  # the hub's own errors are of these two kinds
        raise UsageError(
            f"The text encoder {str(name)!r} is no directory here and could not be had from the Hugging Face hub "
            f"({str(error).partition(chr(10))[0]}); give a directory with config.json, model.safetensors and vocab.txt."
        ) from error


def _check_bert(directory: Path) -> dict:
    """The config of a checkpoint that `Block` can compute: absolute positions, exact GELU, norm after each residual."""
    absent = [name for name in CHECKPOINT if not (directory / name).is_file()]
    if absent:
        raise UsageError(f"{directory} lacks {' and '.join(absent)}; a Hugging Face BERT checkpoint has both.")
    # recent transformers leave the kind of positions out: BERT knows only one there
    raw = {"position_embedding_type": "absolute", **json.loads((directory / "config.json").read_text())}
    wanted = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    for name, value in wanted.items():
        if raw.get(name) != value:
            raise UsageError(
                f"{directory} has {name} {raw.get(name)!r}; the text encoder must be a plain BERT ({name} {value!r}), "
                "such as bert-base-uncased or all-MiniLM-L6-v2."
            )
    return raw


def load_bert(directory: Path) -> tuple[BertConfig, dict[str, Tensor], list[dict[str, Tensor]]]:
    """Read a Hugging Face BERT checkpoint.

    Returns:
        The sizes, the state of `Embeddings`, and the state of each `Block` in order.

    Raises:
        UsageError: a file is missing, or the encoder is not a plain BERT (RoBERTa, DistilBERT, ALBERT and others).
    """
    from safetensors.torch import load_file

    raw = _check_bert(directory)
    config = BertConfig(
        vocabulary=raw["vocab_size"],
        width=raw["hidden_size"],
        heads=raw["num_attention_heads"],
        feed_forward=raw["intermediate_size"],
        blocks=raw["num_hidden_layers"],
        positions=raw["max_position_embeddings"],
        norm_eps=raw["layer_norm_eps"],
    )
    state = {
        # bert-base-uncased still has TensorFlow's names for the scale and shift of a norm
        name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias"): value
        for name, value in load_file(directory / "model.safetensors").items()
    }
    segment = state["embeddings.token_type_embeddings.weight"][0]  # (H,): we only ever have one segment
    embeddings = {
        "token.weight": state["embeddings.word_embeddings.weight"],
        "position.weight": state["embeddings.position_embeddings.weight"] + segment,
        "norm.weight": state["embeddings.LayerNorm.weight"],
        "norm.bias": state["embeddings.LayerNorm.bias"],
    }
    blocks = []
    for index in range(config.blocks):
        prefix = f"encoder.layer.{index}."
        blocks.append(
            {
                f"{ours}.{kind}": state[f"{prefix}{theirs}.{kind}"]
                for theirs, ours in _RENAMED.items()
                for kind in ("weight", "bias")
            }
        )
    return config, embeddings, blocks
