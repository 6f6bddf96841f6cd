"""One optimiser, one schedule, one average: what makes a step of any training here, and the loss of a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from psamf_edge.compile.training.device import Compute
from psamf_edge.compile.training.settings import LoopSettings
from psamf_edge.compile.training.state import State


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


class Trainer:
    """`step` per batch, `finish` at the end. `run_epochs` calls both.

    Args:
        model: only parameters with requires_grad train; it must be on its device already.
        groups: optimiser groups, each {"params", "lr"}.
        steps: how many calls of `step` there will be at most.
        compute: the processes that gradients are averaged over.
    """

    def __init__(
        self, model: nn.Module, groups: list[dict], steps: int, settings: LoopSettings, compute: Compute | None = None
    ) -> None:
        self.model, self.steps, self.settings, self.compute = model, steps, settings, compute or Compute()
        self.done = 0
        self.compute.check_batch(settings.batch)
        self.compute.start_alike(model)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        factor = linear_schedule(steps, settings.warmup)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.average = AveragedWeights(model, settings.average_decay)

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.compute.average_gradients(trained)
        nn.utils.clip_grad_norm_(trained, self.settings.gradient_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.average.update(self.model)
        self.done += 1

    def finish(self) -> None:
        """Put the averaged weights into the model, in evaluation mode."""
        self.average.copy_to(self.model)
        self.model.eval()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model as it would be if training ended now; afterwards it is again as it was, to the bit."""
        own = {n: p.detach().clone() for n, p in self._trained()}
        modes = [(module, module.training) for module in self.model.modules()]
        self.finish()
        try:
            yield
        finally:
            self.put(own)
            for module, training in modes:
                module.training = training

    def weights(self) -> dict[str, Tensor]:
        """What training changes in the model: parameters that train, and buffers. Not copies."""
        return {**{n: p.detach() for n, p in self._trained()}, **dict(self.model.named_buffers())}

    def state(self) -> State:
        """Everything that the next step depends on but chance."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self.weights().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.values.items()}
        tensors |= {f"optimizer.{i}.{key}": t for i, one in optimizer["state"].items() for key, t in one.items()}
        values = {
            "done": self.done,
            "updates": self.average.updates,
            "groups": optimizer["param_groups"],
            "scheduler": self.scheduler.state_dict(),
        }
        return State(tensors, values)

    def restore(self, state: State) -> None:
        """Go on from `state`, of a trainer made alike."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                moments.setdefault(int(index), {})[key] = tensor
            elif kind == "average":
                self.average.values[rest].copy_(tensor)
        self.put({n.removeprefix("model."): t for n, t in state.tensors.items() if n.startswith("model.")})
        groups = [{**group, "betas": tuple(group["betas"])} for group in state.values["groups"]]  # JSON has no tuples
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.scheduler.load_state_dict(state.values["scheduler"])
        self.done, self.average.updates = state.values["done"], state.values["updates"]

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor]) -> None:
        """The opposite of `weights`; names left out stay as they are."""
        own = self.weights()
        for name, value in weights.items():
            own[name].copy_(value)
