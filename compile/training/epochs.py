"""The loop around a trainer: epochs of batches, the log, evaluation with early stopping, checkpoints.

A training is then its model, its batches and its loss:

    batches = LengthBatches(lengths, settings.batch, rng)
    trainer = Trainer(model, groups, epochs * len(batches), settings, run.compute)
    run_epochs(trainer, batches, loss_of, run, "teacher", {"rows": rng}, validation)

where `loss_of(rows)` gives the loss to descend and the terms that the log shows by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from psamf_edge.compile.training.checkpoint import MOST_TIME, Checkpoint, remove
from psamf_edge.compile.training.device import Compute
from psamf_edge.compile.training.log import Log
from psamf_edge.compile.training.loop import Trainer
from psamf_edge.compile.training.state import Chance, State, Stateful, collect

Loss = tuple[Tensor, dict[str, Tensor]]  # what to descend, and detached scalars for the log


class Batches(Stateful, Protocol):
    """What batching.py makes: iterated once for each epoch, and stopped and restored in the middle of one."""

    def __iter__(self) -> Iterator[np.ndarray]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Run:
    """What all stages of one run share."""

    log: Log
    compute: Compute = field(default_factory=Compute)
    folder: Path | None = None  # of the checkpoints; None: none is written and none is read
    most_time: float = MOST_TIME  # share of it for writing checkpoints

    def checkpoint(self, stage: str, trainer: Trainer) -> Checkpoint | None:
        """The checkpoint of a stage, known by everything its steps depend on but the data."""
        if self.folder is None:
            return None
        identity = {
            "stage": stage,
            "settings": asdict(trainer.settings),
            "steps": trainer.steps,
            "processes": self.compute.world,
            "device": self.compute.device.type,
            "weights": {name: list(tensor.shape) for name, tensor in trainer.weights().items()},
        }
        return Checkpoint(self._path(stage), identity, self.log.say, self.most_time)

    def forget(self, stage: str) -> None:
        """Remove the checkpoint of a stage whose result is kept elsewhere."""
        if self.folder is not None:
            remove(self._path(stage))

    def _path(self, stage: str) -> Path:
        return self.folder / f"{stage}.safetensors"


@dataclass(frozen=True)
class Validation:
    """How a model is judged on the validation split, and never on another.

    Args:
        evaluate: metrics by name, of the model as it is when called.
        metric: the one that selects.
        higher: whether more of it is better.
    """

    evaluate: Callable[[], dict[str, float]]
    metric: str
    higher: bool = False


class Selection:
    """Keeps the weights that were best on validation, and says when there has been no better for `patience` times.

    Without patience nothing is kept: the last weights are the result.
    """

    def __init__(self, trainer: Trainer, validation: Validation | None, run: Run, stage: str) -> None:
        self.trainer, self.validation, self.run, self.stage = trainer, validation, run, stage
        self.patience = trainer.settings.patience
        self.best = -math.inf if validation and validation.higher else math.inf  # NaN is never better
        self.best_step = self.since_best = 0
        self.weights: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        return 0 < self.patience <= self.since_best

    def evaluate(self) -> None:
        """Judge the averaged weights; keep them if they are the best yet."""
        with self.trainer.averaged():
            metrics = self.run.compute.from_main(self.validation.evaluate() if self.run.compute.is_main else None)
            value = metrics[self.validation.metric]
            better = value > self.best if self.validation.higher else value < self.best
            if self.patience and better:
                self.weights = {name: tensor.clone() for name, tensor in self.trainer.weights().items()}
        if better:
            self.best, self.best_step, self.since_best = value, self.trainer.done, 0
        else:
            self.since_best += 1
        shown = {f"valid.{name}": number for name, number in metrics.items()}
        self.run.log.write(self.stage, self.trainer.done, shown | {f"best.{self.validation.metric}": self.best})

    def finish(self) -> None:
        """Put the result into the model, in evaluation mode."""
        self.trainer.finish()
        if self.weights:
            self.trainer.put(self.weights)
            chosen = f"{self.validation.metric} {self.best:.4f} on validation"
            self.run.log.say(f"{self.stage}: kept the weights of step {self.best_step}, the best by {chosen}")

    def state(self) -> State:
        return State(self.weights, {"best": self.best, "step": self.best_step, "since": self.since_best})

    def restore(self, state: State) -> None:
        device = self.run.compute.device
        self.weights = {name: tensor.to(device) for name, tensor in state.tensors.items()}
        self.best, self.best_step, self.since_best = (state.values[key] for key in ("best", "step", "since"))


class RunningMeans:
    """Means that forget, one a name, for the log. The first value counts in full."""

    KEEP = 0.98  # fifty steps of memory

    def __init__(self) -> None:
        self.means: dict[str, Tensor] = {}

    def update(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():  # no .item(): a GPU would have to wait for it at each step
            self.means[name] = self.KEEP * self.means[name] + (1.0 - self.KEEP) * value if name in self.means else value

    def values(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.means.items()}

    def state(self) -> State:
        return State(values=self.values())

    def restore(self, state: State) -> None:
        self.means = {name: torch.tensor(value) for name, value in state.values.items()}


def run_epochs(
    trainer: Trainer,
    batches: Batches,
    loss_of: Callable[[np.ndarray], Loss],
    run: Run,
    stage: str,
    generators: Mapping[str, np.random.Generator],
    validation: Validation | None = None,
    log_every: int = 100,
) -> None:
    """Train until the trainer's steps are done or patience is at its end, then leave the result in the model.

    Where `run.folder` holds a checkpoint of this very training, it goes on from there, and ends with the same weights,
    to the bit, as if it had never stopped; a stage that was over is not repeated.

    Args:
        loss_of: what a source's batch costs.
        stage: its name in the log and of its checkpoint.
        generators: every NumPy generator that `batches`, `loss_of` and what they hold draw from.
        validation: for early stopping (settings.patience) and for the log (settings.validate_every).
        log_every: steps between two lines of the log.
    """
    settings, compute = trainer.settings, run.compute
    selection, means = Selection(trainer, validation, run, stage), RunningMeans()
    chance = Chance(generators, compute)
    parts = {"trainer": trainer, "batches": batches, "selection": selection, "means": means, "chance": chance}
    checkpoint = run.checkpoint(stage, trainer)
    if checkpoint and (found := checkpoint.read()):
        if "result" in found.values:
            _Result(trainer).restore(found.part("result"))
            chance.restore(found.part("chance"))
            if compute.is_main:
                checkpoint.forget_before()
            return
        for name, part in parts.items():
            part.restore(found.part(name))
        run.log.say(f"{stage}: goes on from step {trainer.done}")

    def keep() -> None:
        if checkpoint and compute.from_main(checkpoint.due()):
            state = collect(parts)
            if compute.is_main:
                checkpoint.write(state)

    judged = validation is not None and bool(settings.patience or settings.validate_every)
    with run.log.progress(stage, trainer.steps, trainer.done) as tick:
        while trainer.done < trainer.steps and not selection.over:
            for rows in batches:
                loss, terms = loss_of(rows)
                trainer.step(loss)
                means.update(terms)
                tick()
                if trainer.done % log_every == 0:
                    run.log.write(stage, trainer.done, {"of": trainer.steps, **means.values()})
                last = trainer.done == trainer.steps
                if judged and settings.validate_every and (last or trainer.done % settings.validate_every == 0):
                    selection.evaluate()
                if last or selection.over:
                    break
                if settings.checkpoint_every and trainer.done % settings.checkpoint_every == 0:
                    keep()
            if judged and not settings.validate_every:
                selection.evaluate()
            if trainer.done < trainer.steps:
                keep()
    selection.finish()
    if checkpoint:
        state = collect({"result": _Result(trainer), "chance": chance})
        if compute.is_main:
            checkpoint.finish(state)


class _Result:
    """What a stage that is over leaves behind."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def state(self) -> State:
        return State(self.trainer.weights(), {"done": self.trainer.done})

    def restore(self, state: State) -> None:
        self.trainer.put(state.tensors)
        self.trainer.model.eval()
        self.trainer.done = state.values["done"]
