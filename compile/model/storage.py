"""Weights on disk: NAME.safetensors and, beside it, NAME.json with every size of the model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from psamf_edge.errors import UsageError


def save_weights(model: nn.Module, directory: Path, name: str, dtype: torch.dtype) -> None:
    """Write the state of a model and its `config`, a dataclass."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    state = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
    save_file(state, directory / f"{name}.safetensors")
    (directory / f"{name}.json").write_text(json.dumps(asdict(model.config), indent=2) + "\n")


def read_weights(directory: Path, name: str) -> tuple[dict, dict[str, Tensor]]:
    """What `save_weights` wrote: the raw config and the state, as float32.

    Raises:
        UsageError: the directory holds no such model.
    """
    from safetensors.torch import load_file

    weights, config = directory / f"{name}.safetensors", directory / f"{name}.json"
    if not weights.is_file() or not config.is_file():
        raise UsageError(f"{directory} holds no {name} weights: it needs {weights.name} and {config.name}.")
    return json.loads(config.read_text()), {key: value.float() for key, value in load_file(weights).items()}
