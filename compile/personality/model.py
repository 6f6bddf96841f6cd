"""The encoder with its five trait heads, and its files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from psamf_edge.compile.files import atomic
from psamf_edge.compile.model.bert import BertConfig, Trunk
from psamf_edge.compile.model.pretrained import load_encoder
from psamf_edge.compile.model.storage import read_weights, save_weights
from psamf_edge.compile.personality.data import TRAITS
from psamf_edge.errors import UsageError

NAME = "personality"
RECORD = f"{NAME}.json"


class PersonalityEncoder(nn.Module):
    """A whole BERT, and one linear head for the five traits on [CLS] of its last block.

    The head is there to train and to measure the encoder. A trait it predicts is not an output of the product: PSA-MF
    uses `vector` alone.
    """

    def __init__(self, config: BertConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config, config.blocks, dropout)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(config.width, len(TRAITS)))

    @classmethod
    def from_bert(cls, directory: Path, dropout: float) -> PersonalityEncoder:
        """Pre-trained blocks and a new head."""
        pretrained = load_encoder(directory)
        encoder = cls(pretrained.config, dropout)
        encoder.trunk.load(pretrained)
        return encoder

    def vector(self, ids: Tensor, mask: Tensor) -> Tensor:
        """PSA-MF's p: ids (B, L) int64, [CLS] first, mask (B, L) of 0 and 1 -> [CLS] after the last block (B, H)."""
        return self.trunk(ids, mask)[:, 0]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (B, L), mask (B, L) -> logits of the traits (B, 5)."""
        return self.head(self.vector(ids, mask))


def save_personality(encoder: PersonalityEncoder, directory: Path, record: dict) -> dict:
    """Write personality.safetensors (float16) and then personality.json; returns what the latter holds: `record` with
    the sizes of the encoder."""
    save_weights(encoder, directory, NAME, torch.float16)
    record = {"config": asdict(encoder.config), **record}
    with atomic(directory / RECORD) as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    return record


def load_personality(directory: Path) -> PersonalityEncoder:
    """Read what `save_personality` wrote: float32, frozen, in evaluation mode, and without dropout in any mode.

    Raises:
        UsageError: the directory holds no personality encoder, or its two files do not fit each other.
    """
    from safetensors import SafetensorError

    try:
        record, state = read_weights(directory, NAME)
        encoder = PersonalityEncoder(BertConfig(**record["config"]))
        encoder.load_state_dict(state)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{directory} holds a {NAME} encoder that cannot be read ({error}); train it anew.") from error
    return encoder.requires_grad_(False).eval()
