"""Weights on disk: NAME.safetensors and, beside it, NAME.json with every size of the model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from psamf_edge.compile.files import atomic, write_tensors
from psamf_edge.errors import IntegrityError, UsageError


def save_weights(model: nn.Module, directory: Path, name: str, dtype: torch.dtype) -> None:
    """Write the state of a model and its `config`, a dataclass."""
    state = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
    with atomic(directory / f"{name}.safetensors") as new:
        write_tensors(new, state)
    with atomic(directory / f"{name}.json") as new:
        new.write_text(json.dumps(asdict(model.config), indent=2) + "\n")


def read_weights(directory: Path, name: str) -> tuple[dict, dict[str, Tensor]]:
    """What `save_weights` wrote: the raw config and the state, as float32.

    Raises:
        UsageError: the directory holds no such model.
        IntegrityError: a file of it is damaged, or a weight is NaN or infinite.
    """
    return read_sizes(directory, name), {
        key: value.float() for key, value in read_state(directory / f"{name}.safetensors").items()
    }


def read_sizes(directory: Path, name: str) -> dict:
    """The raw config alone, without reading the weights. Raises UsageError and IntegrityError as `read_weights`."""
    weights, config = directory / f"{name}.safetensors", directory / f"{name}.json"
    if not weights.is_file() or not config.is_file():
        raise UsageError(f"{directory} holds no {name} weights: it needs {weights.name} and {config.name}.")
    try:
        return json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{config} is not valid JSON ({error}): fetch the weights again.") from error


def read_state(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, finite.

    Raises:
        IntegrityError: the file is damaged, or holds a number that is NaN or infinite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"{path} is not a safetensors file ({error}): fetch the weights again.") from error
    for name, tensor in state.items():
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise IntegrityError(
                f"{path}: the tensor {name} has {bad} of {tensor.numel()} weights that are NaN or infinite: fetch the"
                " weights again, or go back to a checkpoint from before they were."
            )
    return state
