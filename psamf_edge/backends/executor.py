"""Runs the steps of a plan on a GPU: static buffers, two streams, length buckets, one CUDA graph for each bucket.

Memory is allocated once, for the greatest sizes that the engines take. Inputs lie together in pinned host memory and go
over in one copy, scores come back in one; where the device shares the host's memory (Jetson), the engines read and
write the pinned memory itself, and nothing is copied. What one step hands to a later one never leaves the device.

The first utterance of a bucket runs step by step, because TensorRT and the driver allocate and compile on first use,
which a capture forbids. Then its steps are captured, copies and both streams included, and each later utterance of the
bucket is one launch. Where a capture is refused, the bucket goes on step by step, and the log says why.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from psamf_edge.backends.buckets import MASK_OF, Range, Shape, Shapes, aligned, bucket_shapes, fill
from psamf_edge.backends.driver import Driver, DriverError, HostBuffer
from psamf_edge.backends.engines import Bound, Engine
from psamf_edge.backends.kernel_step import KernelStep
from psamf_edge.backends.schedule import Order, PlanStep, Task, schedule
from psamf_edge.errors import IntegrityError, PsamfError

# Lengths of voice, face and words go together, so a user meets some dozens of buckets, and each holds contexts and a
# graph of a few hundred nodes.
MOST_BUCKETS = 32

log = logging.getLogger(__name__)


@dataclass
class Bucket:
    """All that is fixed for one set of input shapes."""

    inputs: dict[str, np.ndarray]  # views of the pinned memory
    outputs: dict[str, np.ndarray]  # likewise
    size: int  # bytes of the inputs together
    tasks: list[Order | tuple[Bound, bool]]  # what is put on the streams; True: on the side one
    graph: int | None = None
    is_new: bool = True  # has not run yet


@dataclass(frozen=True)
class Block:
    """Memory that both sides see: pinned on the host, and on the device either mapped or a copy."""

    host: HostBuffer
    address: int


class Executor:
    """Runs loaded steps. Every method is called inside `driver.current()`, and from one thread at a time.

    Args:
        driver: stays the caller's, who closes it after this.
        steps: every step of the plan, in its order.
        results: the tensors that come back to the host.

    Raises:
        IntegrityError: two steps disagree about the type of a tensor.
        DriverError: the memory does not suffice.
    """

    def __init__(self, driver: Driver, steps: Sequence[Engine | KernelStep], results: Sequence[str]) -> None:
        self._driver, self._results = driver, tuple(results)
        self._loaded = {step.plan.name: step for step in steps}
        self._buckets: OrderedDict[tuple, Bucket] = OrderedDict()
        self._said: set[str] = set()
        self._dtypes = _agree(steps)
        self._lengths: dict[str, Range] = {}
        largest: Shapes = {}
        for step in steps:
            for name, shape in step.largest(largest).items():
                largest[name] = max(shape, largest.get(name, shape), key=math.prod)
            if isinstance(step, Engine):
                self._lengths |= {name: step.lengths[name] for name in step.plan.inputs if name in MASK_OF}
        self._sizes = {name: self._bytes(name, shape) for name, shape in largest.items()}
        always = {name for step in steps if getattr(step.plan, "when", None) is None for name in step.plan.outputs}
        made = {name for step in steps for name in step.plan.outputs}
        self._main, self._side = driver.stream(), driver.stream()
        self._forked, self._joined = driver.event(), driver.event()
        # what a missing modality leaves to the host is never larger than what its segment would have made
        self._in = self._block(sum(aligned(size) for name, size in self._sizes.items() if name not in always))
        self._out = self._block(sum(aligned(self._sizes[name]) for name in self._results))
        self._addresses = {name: driver.allocate(self._sizes[name]) for name in sorted(made - set(self._results))}
        offsets = itertools.accumulate((aligned(self._sizes[name]) for name in self._results), initial=0)
        self._addresses |= {name: self._out.address + at for name, at in zip(self._results, offsets, strict=False)}
        # one for each stream: contexts on one stream take turns, but those of two streams overlap
        self._scratch = [driver.allocate(max(1, *(step.scratch for step in steps))) for _ in range(2)]

    def run(self, steps: Sequence[PlanStep], host: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the steps that one utterance needs.

        Args:
            steps: of the plan, in its order.
            host: every tensor that no step makes; which ones those are decides which steps run.

        Returns:
            The results, by name.

        Raises:
            InputError: TensorRT refuses an input.
            DriverError: the driver failed.
        """
        shapes = bucket_shapes(host, self._lengths)
        key = tuple(sorted(shapes.items()))
        bucket = self._buckets.get(key) or self._open(key, steps, shapes)
        self._buckets.move_to_end(key)
        for name, view in bucket.inputs.items():
            fill(view, host[name])
        try:
            if bucket.graph is None:
                self._enqueue(bucket)
            else:
                self._driver.launch_graph(bucket.graph, self._main)
            self._driver.synchronise(self._main)
        except BaseException:
            with suppress(DriverError):  # nothing may still be reading the buffers when the next utterance comes
                self._driver.synchronise(self._side)
                self._driver.synchronise(self._main)
            self._drop(key)
            raise
        results = {name: view.copy() for name, view in bucket.outputs.items()}
        if bucket.is_new:
            bucket.is_new = False
            self._capture(bucket)
        return results

    def close(self) -> None:
        """Give back graphs and contexts. The memory and the streams are the driver's."""
        while self._buckets:
            self._drop(next(iter(self._buckets)))
        self._loaded = {}

    def _open(self, key: tuple, steps: Sequence[PlanStep], shapes: Shapes) -> Bucket:
        """A bucket for these shapes, in the place of the one that was not used for longest."""
        while len(self._buckets) >= MOST_BUCKETS:
            self._drop(next(iter(self._buckets)))
        inputs: dict[str, np.ndarray] = {}
        addresses, known, size = dict(self._addresses), dict(shapes), 0
        for name, shape in shapes.items():
            inputs[name] = self._view(self._in, size, name, shape)
            addresses[name] = self._in.address + size
            size += aligned(inputs[name].nbytes)
        tasks: list[Order | tuple[Bound, bool]] = []
        for task in schedule(steps):
            if isinstance(task, Task):
                step, side = self._loaded[task.step.name], task.side
                bound = step.bind(known, addresses, self._scratch[side])
                self._check_fit(bound.outputs)
                known |= bound.outputs
                tasks.append((bound, side))
            else:
                tasks.append(task)
        outputs = {
            name: self._view(self._out, addresses[name] - self._out.address, name, known[name])
            for name in self._results
        }
        bucket = self._buckets[key] = Bucket(inputs, outputs, size, tasks)
        return bucket

    def _enqueue(self, bucket: Bucket) -> None:
        """Put everything on the streams, from the copy of the inputs to the copy of the results."""
        driver, main, side = self._driver, self._main, self._side
        if not driver.shares_memory:
            driver.copy_in(self._in.address, self._in.host, bucket.size, main)
        for task in bucket.tasks:
            if task is Order.FORK:
                driver.record(self._forked, main)
                driver.wait(side, self._forked)
            elif task is Order.JOIN:
                driver.record(self._joined, side)
                driver.wait(main, self._joined)
            else:
                bound, beside = task
                bound.enqueue(side if beside else main)
        if not driver.shares_memory:
            driver.copy_out(self._out.host, self._out.address, len(self._out.host.array), main)

    def _capture(self, bucket: Bucket) -> None:
        """Give the bucket a graph, or let the log say once why there is none."""
        bound = [task for task in bucket.tasks if not isinstance(task, Order)]
        try:
            if not all(step.capturable(self._side if beside else self._main) for step, beside in bound):
                raise DriverError("TensorRT says that an engine allocates memory while it runs.")
            bucket.graph = self._driver.capture(self._main, lambda: self._enqueue(bucket))
        except PsamfError as error:
            if str(error) not in self._said:
                self._said.add(str(error))
                log.warning("Scoring runs step by step, without a CUDA graph. %s", error)

    def _drop(self, key: tuple) -> None:
        bucket = self._buckets.pop(key)
        if bucket.graph is not None:
            with suppress(DriverError):  # in a context that is broken nothing can be given back; its release says so
                self._driver.free_graph(bucket.graph)

    def _block(self, size: int) -> Block:
        shared = self._driver.shares_memory
        host = self._driver.host_buffer(size, mapped=shared)
        return Block(host, host.address if shared else self._driver.allocate(size))

    def _view(self, block: Block, offset: int, name: str, shape: Shape) -> np.ndarray:
        size = self._bytes(name, shape)
        return block.host.array[offset : offset + size].view(self._dtypes[name]).reshape(shape)

    def _bytes(self, name: str, shape: Shape) -> int:
        return math.prod(shape) * self._dtypes[name].itemsize

    def _check_fit(self, outputs: Shapes) -> None:
        """No engine may write past its buffer, whatever it was built from."""
        for name, shape in outputs.items():
            if min(shape) < 0 or self._bytes(name, shape) > self._sizes[name]:
                raise IntegrityError(
                    f"An engine gives {name} the shape {shape}, more than the {self._sizes[name]} bytes that it has at"
                    " the greatest input: run `psamf-edge compile` again."
                )


def _agree(steps: Sequence[Engine | KernelStep]) -> dict[str, np.dtype]:
    """The type of every tensor."""
    dtypes: dict[str, np.dtype] = {}
    for step in steps:
        for name, dtype in step.dtypes.items():
            if dtypes.setdefault(name, dtype) != dtype:
                raise IntegrityError(
                    f"The plan is broken: {step.plan.name} takes {name} as {dtype}, and an earlier step has it as"
                    f" {dtypes[name]}. Run `psamf-edge compile` again."
                )
    return dtypes
