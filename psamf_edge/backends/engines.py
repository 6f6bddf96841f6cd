"""One segment of the plan as a TensorRT engine, full TensorRT or TensorRT-RTX: the two share one Python API.

An engine is native code for one version of one flavour. Most come from the user's own cache, built on this machine; a
bundle may hold some that `psamf-edge compile` built. Never run a bundle with engines from a source you do not trust (no
hash can say who made it; a signature can). Host code inside engines stays off.

Only calls that TensorRT 10.3, 10.13, 11 and TensorRT-RTX 1.7 all have are used, or are asked for first
(tests/test_tensorrt_api.py).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from psamf_edge.backends.buckets import Range, Shapes
from psamf_edge.bundle import PlanSegment
from psamf_edge.errors import InputError, IntegrityError, MissingDependencyError, UsageError

FLAVOURS = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}  # a bundle's target to the import name
FP8_CAPABILITY = (8, 9)  # the first with products of fp8
PACKAGES = {"tensorrt_rtx": "tensorrt-rtx", "tensorrt": "tensorrt"}  # import name to what pip calls it


def check_capability(precision: str, capability: str | None) -> None:
    """Raise UsageError where a GPU of this compute capability, as "8.7", has not the precision. None: not known."""
    if precision == "fp8" and capability is not None and tuple(map(int, capability.split("."))) < FP8_CAPABILITY:
        raise UsageError(
            f"fp8 needs a GPU of compute capability {'.'.join(map(str, FP8_CAPABILITY))} or later, and this one has"
            f" {capability}: compile with --precision int8 or fp16."
        )


@dataclass(frozen=True)
class Bound:
    """A step with its shapes and addresses fixed.

    outputs: the shapes that come out.
    enqueue: put the step on a stream. Raises InputError or DriverError.
    capturable: whether the step may be recorded into a CUDA graph on a stream.
    """

    outputs: Shapes
    enqueue: Callable[[int], None]
    capturable: Callable[[int], bool]


class Engine:
    """A segment's engine, and what is known of it before anything runs.

    Args:
        trt: the module of the engine's flavour.
        runtime: its Runtime.
        log: what `logger_of` gave.
        segment: of the bundle's plan.
        content: the engine's bytes.
        kernels: what `compiled_kernels` gave in an earlier process, or None.

    Raises:
        IntegrityError: the bytes are damaged, or were built by another version or for another device.
        MissingDependencyError: what makes a context: this GPU does not run the engine, or has no memory for it.
    """

    def __init__(
        self, trt: ModuleType, runtime: Any, log: Any, segment: PlanSegment, content: bytes, kernels: bytes | None
    ) -> None:
        self.plan = segment
        self._trt, self._log = trt, log
        self._kernels, self._compiled = kernels, None
        self._log.clear()
        self._engine = runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise IntegrityError(f"TensorRT cannot load the engine of the segment {segment.name}: {log.text()}")
        names = (*segment.inputs, *segment.outputs)
        self.dtypes = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        self.scratch = int(self._engine.device_memory_size_v2)  # bytes that a context needs while it runs
        profiles = {name: self._engine.get_tensor_profile_shape(name, 0) for name in segment.inputs}
        self._greatest: Shapes = {name: tuple(shapes[2]) for name, shapes in profiles.items()}
        self.lengths: dict[str, Range] = {
            name: (shapes[0][1], shapes[2][1]) for name, shapes in profiles.items() if len(shapes[0]) > 1
        }

    def largest(self, known: Shapes) -> Shapes:
        """The shapes of inputs and outputs at the greatest sizes that the engine takes."""
        context = self._context()
        self._set_shapes(context, self._greatest)
        return self._greatest | self._outputs(context)

    def bind(self, shapes: Shapes, addresses: Mapping[str, int], scratch: int) -> Bound:
        """A context of its own for these shapes and addresses: one that a graph was captured from may not change.

        Args:
            shapes: of the inputs, at least.
            addresses: of inputs and outputs.
            scratch: the address of `self.scratch` bytes, which no other context may use at the same time.

        Raises:
            InputError: a shape is outside of what the engine was built for.
        """
        self._log.clear()
        context = self._context()
        context.set_device_memory(scratch, self.scratch)
        self._set_shapes(context, {name: shapes[name] for name in self.plan.inputs})
        for name in (*self.plan.inputs, *self.plan.outputs):
            if not context.set_tensor_address(name, addresses[name]):
                raise self._failed()

        def enqueue(stream: int) -> None:
            self._log.clear()
            if not context.execute_async_v3(stream):
                raise self._failed()

        def capturable(stream: int) -> bool:
            return not hasattr(context, "is_stream_capturable") or context.is_stream_capturable(stream)

        return Bound(self._outputs(context), enqueue, capturable)

    def compiled_kernels(self) -> bytes | None:
        """What TensorRT-RTX has compiled for this engine on this GPU, for a later process; None for full TensorRT."""
        return None if self._compiled is None else bytes(self._compiled.serialize())

    def _context(self) -> Any:
        """An execution context without scratch memory: many contexts share it, since they take turns."""
        trt, engine = self._trt, self._engine
        shared = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):  # TensorRT-RTX
            # by default it replaces kernels when better ones are ready, which a captured graph would never see
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(shared)
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            if self._compiled is None:
                self._compiled = config.create_runtime_cache()
                if self._kernels is not None:
                    self._compiled.deserialize(self._kernels)  # what does not fit is compiled again
            config.set_runtime_cache(self._compiled)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(shared)
        if context is None:  # the bytes are in order: TensorRT-RTX compiles them for this GPU only now
            raise MissingDependencyError(
                f"TensorRT cannot run the engine of the segment {self.plan.name} on this GPU: {self._log.text()}"
            )
        return context

    def _set_shapes(self, context: Any, shapes: Shapes) -> None:
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._failed()

    def _outputs(self, context: Any) -> Shapes:
        return {name: tuple(context.get_tensor_shape(name)) for name in self.plan.outputs}

    def _failed(self) -> InputError:
        return InputError(f"TensorRT failed in the segment {self.plan.name}: {self._log.text()}")


def load_tensorrt(flavour: str) -> ModuleType:
    """Import TensorRT by flavour.

    Raises:
        IntegrityError: the flavour is none of PACKAGES: nothing else is ever imported by a name from a file.
        MissingDependencyError: it is not installed.
    """
    if flavour not in PACKAGES:
        raise IntegrityError(f"Engines of flavour {flavour[:40]!r} are unknown; known are {', '.join(PACKAGES)}.")
    try:
        return importlib.import_module(flavour)
    except Exception as error:  # besides ImportError, its own libraries may be missing or unfit
        raise MissingDependencyError(
            f"This needs {PACKAGES[flavour]}, which cannot be imported ({error}): `pip install {PACKAGES[flavour]}`."
        ) from error


@contextmanager
def starting(trt: ModuleType, what: str) -> Iterator[None]:
    """Around the making of TensorRT's Builder or Runtime, which fails where there is no GPU or CUDA does not suit.

    Raises:
        MissingDependencyError: it failed; the message has TensorRT's log.
    """
    log = logger_of(trt)
    log.clear()
    try:
        yield
    except Exception as error:  # the bindings raise TypeError with no more than "returned nullptr"
        raise MissingDependencyError(
            f"The {what} of {trt.__name__} {trt.__version__} does not start here: check with `psamf-edge doctor` that"
            f" there is a GPU, and that its driver is not older than this TensorRT's CUDA. {log.text()}"
        ) from error


@functools.cache
def logger_of(trt: ModuleType) -> Any:
    """The process's logger for TensorRT, which keeps the first one it is given. It collects warnings and errors."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.lines.append(f"{getattr(severity, 'name', severity)}: {message}")
                del self.lines[:-50]  # a warning for each run must not fill the memory

        def clear(self) -> None:
            self.lines = []

        def text(self) -> str:
            return "\n".join(self.lines) or "TensorRT gave no reason."

    return Logger()
