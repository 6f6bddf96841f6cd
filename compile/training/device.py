"""Where a training runs: one CPU, one GPU, or several processes that each take a share of every batch.

Several processes come from `accelerate launch -m psamf_edge train ...`. Every process draws the same batches from the
same generators and trains on its own rows of them; the gradients are averaged, so that N processes do what one does, up
to rounding and to their own dropout. That is so for losses that are means over the batch; the teacher's, which compare
samples and leave some out, and the student's share of wrong signs, which leaves neutral ones out, are taken over the
rows of all (`Compute.all_rows`). It is not so for one: where clips lack voice or face, the attention term of a
distillation is the mean over the processes of their means over those clips that have it.

Only the main process writes. Outside such a launch accelerate is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from psamf_edge.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator


CPU = torch.device("cpu")
Rows = TypeVar("Rows", Tensor, tuple, None)
Made = TypeVar("Made")


@dataclass(frozen=True)
class Compute:
    """The device of this process, and its place among others if there are any."""

    device: torch.device = CPU
    accelerator: Accelerator | None = None

    @property
    def world(self) -> int:
        return self.accelerator.num_processes if self.accelerator else 1

    @property
    def rank(self) -> int:
        return self.accelerator.process_index if self.accelerator else 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def part(self) -> slice:
        """This process's rows of a batch that all processes have drawn alike."""
        return slice(self.rank, None, self.world)

    def check_batch(self, batch: int) -> None:
        """The mean over processes is the mean over the batch only if their shares are equal.

        Raises:
            UsageError: the batch cannot be shared out evenly.
        """
        if batch % self.world:
            raise UsageError(f"A batch of {batch} cannot be shared by {self.world} processes; choose a multiple of it.")

    def autocast(self, bfloat16: bool) -> torch.autocast:
        """bfloat16 takes six tenths of float32's time on a CPU that has it, and its range cannot overflow."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)

    def start_alike(self, model: nn.Module) -> None:
        """Give every process the main one's weights, and chance of its own for dropout."""
        if self.world == 1:
            return
        from accelerate.utils import broadcast

        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.copy_(broadcast(tensor.detach().clone()))
        if not self.is_main:
            torch.manual_seed(torch.initial_seed() + self.rank)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, all of them in one exchange."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        mean = self.accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def all_rows(self, own: Rows) -> Rows:
        """What all processes have of a batch, in its order, where `own` is what this one has of its `part`.

        A loss of all rows is the same in every process and gives a gradient to the own ones, times the number of
        processes: `average_gradients` then makes of these parts what one process would have.

        Args:
            own: a tensor (B / world, ...), None, or a tuple of such, named or not.
        """
        if self.world == 1 or own is None:
            return own
        if isinstance(own, tuple):
            rows = map(self.all_rows, own)
            return type(own)(*rows) if hasattr(own, "_fields") else tuple(rows)
        by_rank = self.accelerator.gather(own.detach()).unflatten(0, (self.world, len(own)))  # (world, B / world, ...)
        rows = by_rank.transpose(0, 1).flatten(0, 1)  # (B, ...)
        if own.requires_grad:
            rows[self.part()] = own
            rows.register_hook(lambda gradient: self.world * gradient)
        return rows

    def from_main(self, value: Any) -> Any:
        """What the main process holds, in every process."""
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def once(self, make: Callable[[], Made]) -> Made:
        """What `make` gives in the main process, which alone calls it, in every process."""
        return self.from_main(make() if self.is_main else None)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block before the others do, which then find what it wrote."""
        if not self.is_main:
            self.from_main(None)
        yield
        if self.is_main:
            self.from_main(None)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensor of each process, by rank."""
        if self.world == 1:
            return [tensor]
        from accelerate.utils import gather_object

        return gather_object([tensor])


def device_of(model: nn.Module) -> torch.device:
    """Where the model is."""
    return next(model.parameters()).device


def to_tensors(arrays: Iterable[np.ndarray], device: torch.device) -> tuple[Tensor, ...]:
    """The arrays as tensors on a device; on the CPU they share the arrays' memory."""
    return tuple(torch.from_numpy(array).to(device) for array in arrays)


def open_compute(device: str) -> Compute:
    """The device for `auto`, `cpu` or `cuda`; auto takes a GPU where PyTorch sees one.

    Raises:
        MissingDependencyError: cuda was asked for and PyTorch sees no GPU.
    """
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise MissingDependencyError("PyTorch sees no NVIDIA GPU; use --device cpu, or a build of PyTorch with CUDA.")
    on_gpu = device != "cpu" and has_gpu
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # the launcher sets it
        return Compute(torch.device("cuda" if on_gpu else "cpu"))
    from accelerate import Accelerator, InitProcessGroupKwargs

    # by default the others end after 10 or 30 minutes, and the main one may read for hours, see `once`
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    accelerator = Accelerator(cpu=not on_gpu, kwargs_handlers=[patience])
    return Compute(accelerator.device, accelerator)
