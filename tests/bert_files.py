"""Small untrained BERT checkpoints for the tests, as Hugging Face writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from psamf_edge.compile.model.bert import BertConfig, Trunk
from psamf_edge.compile.model.pretrained import _BERT_BLOCK


def write_bert(folder: Path, config: BertConfig, vocabulary: Sequence[str], spread: float = 0.1) -> Path:
    """Write config.json, model.safetensors and vocab.txt into the folder. spread: of the matrices, from seed 0."""
    torch.manual_seed(0)
    trunk = Trunk(config, config.blocks, dropout=0.0)
    for parameter in trunk.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=spread)
    embeddings = trunk.embeddings.state_dict()
    state = {
        "embeddings.word_embeddings.weight": embeddings["token.weight"],
        "embeddings.position_embeddings.weight": embeddings["position.weight"],
        "embeddings.token_type_embeddings.weight": torch.zeros(2, config.width),
        "embeddings.LayerNorm.weight": embeddings["norm.weight"],
        "embeddings.LayerNorm.bias": embeddings["norm.bias"],
    }
    for index, block in enumerate(trunk.blocks):
        for theirs, ours in _BERT_BLOCK.items():
            for kind in ("weight", "bias"):
                state[f"encoder.layer.{index}.{theirs}.{kind}"] = block.state_dict()[f"{ours}.{kind}"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    sizes = {
        "model_type": "bert", "hidden_act": "gelu", "vocab_size": config.vocabulary, "hidden_size": config.width,
        "num_attention_heads": config.heads, "intermediate_size": config.feed_forward,
        "num_hidden_layers": config.blocks, "max_position_embeddings": config.positions,
        "layer_norm_eps": config.norm_eps,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes))
    return folder
