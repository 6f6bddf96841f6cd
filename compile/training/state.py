"""What a part of a training needs to go on: tensors, and values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from psamf_edge.compile.training.device import Compute


@dataclass(frozen=True)
class State:
    """Of one part, or of several under their names."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> State:
        """The state of the part called `name`."""
        prefix = name + "/"
        tensors = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        return State(tensors, self.values[name])


class Stateful(Protocol):
    """A part that can be stopped and can go on."""

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


def collect(parts: Mapping[str, Stateful]) -> State:
    """The states of all parts as one."""
    states = {name: part.state() for name, part in parts.items()}
    tensors = {f"{name}/{key}": value for name, state in states.items() for key, value in state.tensors.items()}
    return State(tensors, {name: state.values for name, state in states.items()})


class Chance:
    """Every source of chance: NumPy's generators, and PyTorch's on the CPU and the GPU of each process.

    Args:
        generators: by name. Parts that share a generator are covered by naming it once.
    """

    def __init__(self, generators: Mapping[str, np.random.Generator], compute: Compute) -> None:
        self.generators, self.compute = generators, compute

    def state(self) -> State:
        own = {"cpu": torch.get_rng_state()}
        if self.compute.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.compute.device)
        tensors = {
            f"{kind}.{rank}": tensor
            for kind, mine in own.items()
            for rank, tensor in enumerate(self.compute.gather(mine))
        }
        return State(tensors, {name: g.bit_generator.state for name, g in self.generators.items()})

    def restore(self, state: State) -> None:
        for name, generator in self.generators.items():
            generator.bit_generator.state = state.values[name]
        torch.set_rng_state(state.tensors[f"cpu.{self.compute.rank}"])
        if self.compute.device.type == "cuda":
            torch.cuda.set_rng_state(state.tensors[f"cuda.{self.compute.rank}"], self.compute.device)
