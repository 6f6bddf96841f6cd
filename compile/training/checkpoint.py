"""The state of a training on disk: two files, the last and the one before it, each of which says whether it is whole.

A file is safetensors, with the values as JSON in its metadata and a SHA-256 over both. A file that is torn, or that
another training wrote, is told of and passed over; then the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from psamf_edge.compile.files import atomic, write_tensors
from psamf_edge.compile.training.state import State

VERSION = 1  # of what a checkpoint holds
# of the time, that writing may take: a large model on a slow disk then gets fewer checkpoints, not a longer training
MOST_TIME = 0.05


class Checkpoint:
    """Reads and writes the checkpoints of one stage.

    Args:
        path: of the last one; the one before it lies beside it.
        identity: whatever the training depends on, as JSON can hold it; a checkpoint of another identity is foreign.
        say: prints one line.
        most_time: share of the time that `write` may take before it leaves a checkpoint out.
    """

    def __init__(
        self, path: Path, identity: dict[str, Any], say: Callable[[str], None], most_time: float = MOST_TIME
    ) -> None:
        self.path, self.before = path, _before(path)
        self.identity = hashlib.sha256(json.dumps([VERSION, identity], sort_keys=True).encode()).hexdigest()
        self.say, self.most_time = say, most_time
        self.begun, self.spent = time.monotonic(), 0.0
        self.last_is_good = False  # only a good one may take the place of the one before it

    def read(self) -> State | None:
        """The newest state that is whole and ours, or None."""
        for path in (self.path, self.before):
            if path.is_file():
                try:
                    state = self._load(path)
                except (ValueError, OSError) as error:
                    self.say(f"{path} is passed over: {error}.")
                else:
                    self.last_is_good = path == self.path
                    return state
        return None

    def due(self) -> bool:
        """Whether writing has kept within its share of the time."""
        return self.spent <= self.most_time * (time.monotonic() - self.begun)

    def write(self, state: State) -> None:
        """Make this the last checkpoint."""
        begun = time.monotonic()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        values = json.dumps(state.values)
        metadata = {"identity": self.identity, "values": values, "sha256": _digest(tensors, values)}
        with atomic(self.path) as new:
            write_tensors(new, tensors, metadata)
            if self.last_is_good:
                os.replace(self.path, self.before)
        self.last_is_good = True
        self.spent += time.monotonic() - begun

    def finish(self, state: State) -> None:
        """Leave this one alone: a stage that is over needs no way back."""
        self.write(state)
        self.forget_before()

    def forget_before(self) -> None:
        """Remove the one before: of a stage that was over when a kill came, it may be there still."""
        self.before.unlink(missing_ok=True)

    def _load(self, path: Path) -> State:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"it is damaged ({error})") from None
        if metadata.get("identity") != self.identity:
            raise ValueError("another training wrote it")
        if metadata["sha256"] != _digest(tensors, metadata["values"]):
            raise ValueError("it is damaged (its hash differs)")
        return State(tensors, json.loads(metadata["values"]))


def remove(path: Path) -> None:
    """Remove the checkpoints whose last one has this path."""
    path.unlink(missing_ok=True)
    _before(path).unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_name(f"{path.stem}.before{path.suffix}")


def _digest(tensors: dict[str, torch.Tensor], values: str) -> str:
    digest = hashlib.sha256(values.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
