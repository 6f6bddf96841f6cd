"""The order of a plan on two streams: voice and face beside the text encoder, all that needs both on the main one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from psamf_edge.bundle import PlanKernel, PlanSegment

PlanStep = PlanSegment | PlanKernel


class Order(Enum):
    """How the two streams wait for one another."""

    FORK = "side waits for main"
    JOIN = "main waits for side"


@dataclass(frozen=True)
class Task:
    """One step of the plan on one of the streams."""

    step: PlanStep
    side: bool


def schedule(steps: Sequence[PlanStep]) -> list[Order | Task]:
    """Put the steps of one utterance on the two streams, in an order that gives every step what it reads.

    A segment goes to the side if it is the voice's or the face's and reads features alone; with no text there is
    nothing to run beside, and all stay on the main stream. The fork comes first: a stream that forks waits for
    everything before the fork, and the text must not be among that. The join comes before the first step that reads
    what the side writes, or at the end, since a capture may leave no stream behind.
    """
    made = {name for step in steps for name in step.outputs}
    has_text = any(_modality(step) == "text" for step in steps)
    beside = [s for s in steps if has_text and _modality(s) in ("audio", "face") and made.isdisjoint(s.inputs)]
    tasks: list[Order | Task] = [Order.FORK] if beside else []
    unjoined: set[str] = set()
    for step in steps:
        if step in beside:
            unjoined |= set(step.outputs)
        elif not unjoined.isdisjoint(step.inputs):
            tasks.append(Order.JOIN)
            unjoined.clear()
        tasks.append(Task(step, step in beside))
    return [*tasks, Order.JOIN] if unjoined else tasks


def _modality(step: PlanStep) -> str | None:
    return step.when if isinstance(step, PlanSegment) else None
