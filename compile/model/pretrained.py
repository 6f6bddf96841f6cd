"""Pre-trained text encoders from Hugging Face checkpoints (config.json, model.safetensors, vocab.txt): BERT and MPNet.

MPNet (Song et al. 2020) has BERT's blocks and BERT's word pieces, but numbers the pieces from four on and the positions
from two on, and adds a bias by relative position. It is read so that the token ids of BERT's uncased vocabulary fit:
one tokenizer serves all encoders.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.model.storage import read_state
from psamf_edge.errors import UsageError

CHECKPOINT = ("config.json", "model.safetensors")
ENCODER_FILES = (*CHECKPOINT, "vocab.txt")  # the last one only an MPNet needs
State = dict[str, Tensor]


@dataclass(frozen=True)
class Pretrained:
    """The sizes of an encoder, and the states of `Embeddings`, of each `Block` in order, and of `RelativeBias`."""

    config: BertConfig
    embeddings: State
    blocks: list[State]
    relative: State | None = None


def find_encoder(name: str | Path) -> Path:
    """A checkpoint directory: `name` itself where it is one, else the Hugging Face hub's copy, fetched once.

    Raises:
        UsageError: neither a directory nor a repository that the hub gives out.
    """
    if Path(name).is_dir():
        return Path(name)
    import huggingface_hub  # comes with transformers; only who names a hub repository needs a network

    try:
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=[*ENCODER_FILES]))
    except (OSError, ValueError) as error:  # the hub's own errors are of these two kinds
        raise UsageError(
            f"The text encoder {str(name)!r} is no directory here and could not be had from the Hugging Face hub "
            f"({str(error).partition(chr(10))[0]}); give a directory with config.json, model.safetensors and vocab.txt."
        ) from error


def load_encoder(directory: Path) -> Pretrained:
    """Read a checkpoint.

    Raises:
        UsageError: a file is missing, or the encoder is neither a plain BERT nor an MPNet (RoBERTa, DistilBERT, ALBERT
            and others).
    """
    raw = _check(directory)
    state = read_state(directory / "model.safetensors")
    if raw["model_type"] == "mpnet":
        return _mpnet(_sizes(raw), raw["relative_attention_num_buckets"], state, directory)
    return _bert(_sizes(raw), state)


def read_config(directory: Path) -> BertConfig:
    """The sizes alone, of the checkpoint as it is stored. Raises UsageError as `load_encoder`."""
    return _sizes(_check(directory))


def _sizes(raw: dict) -> BertConfig:
    return BertConfig(
        vocabulary=raw["vocab_size"],
        width=raw["hidden_size"],
        heads=raw["num_attention_heads"],
        feed_forward=raw["intermediate_size"],
        blocks=raw["num_hidden_layers"],
        positions=raw["max_position_embeddings"],
        norm_eps=raw["layer_norm_eps"],
    )


def _check(directory: Path) -> dict:
    """The config of a checkpoint that `Block` can compute: exact GELU, norm after each residual, and absolute positions
    or MPNet's."""
    absent = [name for name in CHECKPOINT if not (directory / name).is_file()]
    if absent:
        raise UsageError(f"{directory} lacks {' and '.join(absent)}; a Hugging Face BERT checkpoint has both.")
    # recent transformers leave the kind of positions out: BERT knows only one there
    raw = {"position_embedding_type": "absolute", **json.loads((directory / "config.json").read_text())}
    wanted = {"model_type": ("bert", "mpnet"), "hidden_act": ("gelu",), "position_embedding_type": ("absolute",)}
    for name, values in wanted.items():
        if raw.get(name) not in values:
            raise UsageError(
                f"{directory} has {name} {raw.get(name)!r}; the text encoder must be a plain BERT or an MPNet ({name} "
                f"{' or '.join(map(repr, values))}), such as bert-base-uncased, all-MiniLM-L6-v2 or all-mpnet-base-v2."
            )
    return raw


_BERT_BLOCK = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
}
_MPNET_BLOCK = {
    "attention.attn.q": "attention.query",
    "attention.attn.k": "attention.key",
    "attention.attn.v": "attention.value",
    "attention.attn.o": "attention.out",
    "attention.LayerNorm": "norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
}


def _blocks(state: State, names: dict[str, str], count: int) -> list[State]:
    return [
        {
            f"{ours}.{kind}": state[f"encoder.layer.{index}.{theirs}.{kind}"]
            for theirs, ours in names.items()
            for kind in ("weight", "bias")
        }
        for index in range(count)
    ]


def _norm(state: State) -> State:
    return {f"norm.{kind}": state[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")}


def _bert(config: BertConfig, state: State) -> Pretrained:
    # bert-base-uncased still has TensorFlow's names for the scale and shift of a norm
    state = {
        name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias"): value
        for name, value in state.items()
    }
    segment = state["embeddings.token_type_embeddings.weight"][0]  # (H,): we only ever have one segment
    embeddings = {
        "token.weight": state["embeddings.word_embeddings.weight"],
        "position.weight": state["embeddings.position_embeddings.weight"] + segment,
        **_norm(state),
    }
    return Pretrained(config, embeddings, _blocks(state, _BERT_BLOCK, config.blocks))


# MPNet's own name for what BERT's vocabulary calls otherwise; all other word pieces have the same name
_MPNET_MARKS = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
_MPNET_FIRST_POSITION = 2


def _mpnet(config: BertConfig, buckets: int, state: State, directory: Path) -> Pretrained:
    if not (directory / "vocab.txt").is_file():
        raise UsageError(f"{directory} lacks vocab.txt; an MPNet's word pieces cannot be told without it.")
    pieces = (directory / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    number = {piece: row for row, piece in enumerate(pieces)}
    own = {"<unk>", *_MPNET_MARKS.values()}
    bert = [piece for piece in pieces if piece not in own]  # in BERT's order, so that the place is BERT's token id
    rows = torch.tensor([number[_MPNET_MARKS.get(piece, piece)] for piece in bert])
    state = {name.removeprefix("mpnet."): value for name, value in state.items()}
    position = state["embeddings.position_embeddings.weight"][_MPNET_FIRST_POSITION:]
    embeddings = {
        "token.weight": state["embeddings.word_embeddings.weight"][rows],
        "position.weight": position,
        **_norm(state),
    }
    config = replace(config, vocabulary=len(bert), positions=len(position), relative_buckets=buckets)
    relative = {"table.weight": state["encoder.relative_attention_bias.weight"]}
    return Pretrained(config, embeddings, _blocks(state, _MPNET_BLOCK, config.blocks), relative)
