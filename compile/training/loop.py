"""What both stages share: batching by length, the schedule, the averaged weights, the loss, the log."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from psamf_edge.compile.training.settings import TrainSettings


def batches_by_length(lengths: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Random batches of row numbers, each of similar lengths so that little is padding. The last, short one is left
    out.

    Rows are shuffled, sorted within pools of fifty batches, and the batches of each pool shuffled again.
    """
    order = rng.permutation(len(lengths))
    pool = 50 * size
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
        rng.shuffle(batches)
        yield from batches


def linear_schedule(steps: int, warmup: float) -> Callable[[int], float]:
    """Learning-rate factor: up over the first `warmup` share of the steps, then down to zero."""
    return lambda step: min(1.0, (step + 1) / max(1.0, warmup * steps)) * max(0.0, 1.0 - step / steps)


class AveragedWeights:
    """Exponential moving average of the trainable parameters, with a start that forgets the initial ones quickly."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for name, parameter in model.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.values:
                parameter.copy_(self.values[name])


def score_loss(score: Tensor, log_scale: Tensor, labels: Tensor, scale_weight: float) -> Tensor:
    """L1 of the score, plus the Laplace likelihood of its error, which trains the scale and leaves the score alone.

    All (B, S). The scale b behind the confidence minimises |y^ - y| / b + log b with the error held constant.
    """
    error = (score - labels).abs()
    likelihood = error.detach() * torch.exp(-log_scale) + log_scale
    return error.mean() + scale_weight * likelihood.mean()


def count_batches(lengths: np.ndarray, size: int) -> int:
    """How many batches `batches_by_length` gives: the same for every shuffle."""
    return sum(1 for _ in batches_by_length(lengths, size, np.random.default_rng(0)))


class RunningMean:
    """A mean that forgets, for the log: of numbers or of arrays of one shape. The first value counts in full."""

    KEEP = 0.98  # fifty steps of memory

    def __init__(self) -> None:
        self.value: float | np.ndarray | None = None

    def update(self, value: float | np.ndarray) -> None:
        self.value = value if self.value is None else self.KEEP * self.value + (1.0 - self.KEEP) * value


class Log:
    """A CSV of (stage, step, name, value), flushed at each line, and the same on stderr through `echo`."""

    def __init__(self, path: Path, echo: Callable[[str], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", newline="")
        self.writer, self.echo, self.start = csv.writer(self.file), echo, time.monotonic()

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.writerow([stage, step, name, f"{value:.5f}"])
        self.file.flush()
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.echo(f"{stage} {step:6d}  {time.monotonic() - self.start:6.0f} s  {shown}")


class Trainer:
    """One optimiser, one schedule, one average: `step` per batch, `finish` at the end.

    Args:
        model: the whole student; only parameters with requires_grad train.
        groups: optimiser groups, each {"params", "lr"}.
        steps: how many calls of `step` there will be.
    """

    def __init__(self, model: nn.Module, groups: list[dict], steps: int, settings: TrainSettings) -> None:
        self.model, self.settings = model, settings
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        factor = linear_schedule(steps, settings.warmup)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.average = AveragedWeights(model, settings.average_decay)

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, self.settings.gradient_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.average.update(self.model)

    def finish(self) -> None:
        """Put the averaged weights into the model, in evaluation mode."""
        self.average.copy_to(self.model)
        self.model.eval()
