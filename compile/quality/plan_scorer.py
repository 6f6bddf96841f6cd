"""Scores from the parts of a plan that is not packed yet: graphs in ONNX Runtime, kernels in PyTorch.

What a target's engines are built from is evaluated here, on the CPU. The runtime's own code walks the plan.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from psamf_edge.bundle import Bundle, PlanKernel, PlanSegment, Shapes
from psamf_edge.compile.export.partition import Part
from psamf_edge.compile.export.parts import PartsRunner
from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.errors import InputError
from psamf_edge.plan import Tensors, score

EVALUATED_BY = (
    f"ONNX Runtime {ort.__version__} on a CPU, with the lowered ONNX files that engines are built from, and kernels in"
    " PyTorch; it computes what has no float16 form on a CPU in float32, between float16 values"
)
Trace = list[dict[str, Tensors]]  # of each sample: what each step gave


class PlanScorer:
    """A plan, loaded.

    Args:
        parts: in the order of the plan.
        shapes: of the model.
    """

    def __init__(self, parts: Sequence[Part], shapes: Shapes) -> None:
        self._parts = {part.plan.name: part for part in parts}
        # a session that lets NaN pass: an overflow in float16 is a finding here, and not a damaged file
        self._runner = PartsRunner(parts, (), kind=ort.InferenceSession)
        plan = tuple(part.plan for part in parts)
        self._bundle = Bundle(Path("."), "", "", "cpu", "", {}, plan, shapes, None, {}, {}, "")

    def scores(
        self,
        samples: Sequence[Sample],
        trace: Trace | None = None,
        known: Trace | None = None,
        changed: Collection[str] = (),
        given: Trace | None = None,
    ) -> np.ndarray:
        """The score of each sample, (N,) float64; NaN where the model gives no finite one.

        Args:
            trace: an empty list, to be filled.
            known: what the steps of a like plan gave for these samples.
            changed: the steps that `known` does not hold for; all others are not run again.
            given: an empty list, to be filled with what each step was given.
        """
        scores = []
        for number, sample in enumerate(samples):
            made: dict[str, Tensors] = {}
            read: dict[str, Tensors] = {}

            def run_step(
                step: PlanSegment | PlanKernel,
                inputs: dict[str, np.ndarray],
                number: int = number,
                made: dict[str, Tensors] = made,
                read: dict[str, Tensors] = read,
            ) -> Tensors:
                read[step.name] = inputs
                if known is not None and step.name not in changed:
                    return known[number][step.name]
                made[step.name] = self._runner.step(self._parts[step.name], inputs)
                return made[step.name]

            try:
                scores.append(score(self._bundle, run_step, sample.features).score)
            except InputError:  # the features were made by the runtime's code: it is the score that is not finite
                scores.append(float("nan"))
            if trace is not None:
                trace.append(made)
            if given is not None:
                given.append(read)
        return np.array(scores)


def downstream(parts: Sequence[Part], name: str) -> set[str]:
    """The names of a part and of all parts that read what comes of it."""
    found, tensors = set(), set()
    for part in parts:
        if part.plan.name == name or tensors & set(part.plan.inputs):
            found.add(part.plan.name)
            tensors |= set(part.plan.outputs)
    return found
