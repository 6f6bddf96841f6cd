"""The plan through TensorRT engines: full TensorRT and TensorRT-RTX, which share one Python API.

An engine is native code for one version of one flavour. A bundle holds engines that `psamf-edge compile` built on the
machine they run on; never run a bundle with engines from a source you do not trust (no hash can say who made it). Host
code inside engines stays off.

Tensors that one segment hands to a later one stay in device memory: only features go in, and only scores come out.

This file has been tested against a stand-in for the driver and for TensorRT, and its engines have been built by
TensorRT-RTX 1.7; it has not yet run on a GPU.
"""

from __future__ import annotations

import functools
import importlib
import math
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from psamf_edge.backends.cuda_driver import CudaDriver
from psamf_edge.bundle import Bundle, PlanSegment
from psamf_edge.errors import InputError, IntegrityError, MissingDependencyError, UsageError
from psamf_edge.plan import Features, Outputs, check_plan, score

PACKAGES = {"tensorrt_rtx": "tensorrt-rtx", "tensorrt": "tensorrt"}  # import name to what pip calls it


@dataclass(frozen=True)
class DeviceTensor:
    """A tensor that is already in the device buffer of its name."""

    shape: tuple[int, ...]


class TensorRTBackend:
    """One engine and one execution context for each segment, on one stream.

    Args:
        bundle: what `open_bundle` gave, of a target with engines.

    Raises:
        MissingDependencyError: TensorRT, cuda-bindings, the driver or a GPU is missing.
        IntegrityError: an engine is damaged, or was built by another flavour or version.
    """

    name = "tensorrt"
    note = None

    def __init__(self, bundle: Bundle) -> None:
        self.precision = bundle.precision
        self._bundle = bundle
        self._contexts: dict[str, Any] = {}
        self._engines: dict[str, Any] = {}
        self._driver: CudaDriver | None = None
        check_plan(bundle)
        if bundle.engines is None:
            raise UsageError(
                f"The bundle {bundle.name} has no engines: make one with `psamf-edge compile --target rtx`."
            )
        self._trt = load_tensorrt(bundle.engines.flavour)
        _check_version(bundle, self._trt)
        self._log = logger_of(self._trt)
        self._driver = CudaDriver()
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        runtime = self._trt.Runtime(self._log)
        sizes: dict[str, int] = {}  # bytes of each tensor at its largest
        for segment in self._bundle.plan:
            self._log.clear()
            engine = runtime.deserialize_cuda_engine(self._bundle.read(segment.engine))
            context = engine.create_execution_context() if engine is not None else None
            if context is None:
                raise IntegrityError(
                    f"TensorRT cannot load {segment.engine} of {self._bundle.path}: run `psamf-edge compile` again on"
                    f" this machine. {self._log.text()}"
                )
            self._engines[segment.name], self._contexts[segment.name] = engine, context
            for name in segment.inputs:
                largest = tuple(engine.get_tensor_profile_shape(name, 0)[2])  # minimum, usual, maximum
                context.set_input_shape(name, largest)
            for name in (*segment.inputs, *segment.outputs):
                size = math.prod(context.get_tensor_shape(name)) * self._dtype(engine, name).itemsize
                sizes[name] = max(size, sizes.get(name, 0))
        self._addresses = {name: self._driver.allocate(size) for name, size in sizes.items()}
        self._handed_on = {name for segment in self._bundle.plan for name in segment.inputs}

    def _dtype(self, engine: Any, name: str) -> np.dtype:
        return np.dtype(self._trt.nptype(engine.get_tensor_dtype(name)))

    def run(self, features: Features) -> Outputs:
        """Score one utterance. Raises InputError: nothing is present, or a feature is not usable."""
        if self._driver is None:
            raise UsageError("The backend is closed: open it again with open_backend.")
        self._driver.make_current()
        return score(self._bundle, self._run_segment, features)

    def _run_segment(self, segment: PlanSegment, inputs: dict[str, Any]) -> dict[str, Any]:
        context, engine, driver = self._contexts[segment.name], self._engines[segment.name], self._driver
        self._log.clear()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                value = np.ascontiguousarray(value, self._dtype(engine, name))
                driver.copy_in(self._addresses[name], value)
            if not context.set_input_shape(name, tuple(value.shape)):
                raise self._failed(segment)
        for name in (*segment.inputs, *segment.outputs):
            context.set_tensor_address(name, self._addresses[name])
        if not context.execute_async_v3(int(driver.stream)):
            raise self._failed(segment)
        outputs: dict[str, Any] = {}
        for name in segment.outputs:
            shape = tuple(context.get_tensor_shape(name))
            if name in self._handed_on:
                outputs[name] = DeviceTensor(shape)
            else:
                outputs[name] = np.empty(shape, self._dtype(engine, name))
                driver.copy_out(outputs[name], self._addresses[name])
        if not self._handed_on.issuperset(segment.outputs):
            driver.synchronise()
        return outputs

    def _failed(self, segment: PlanSegment) -> InputError:
        return InputError(f"TensorRT failed in the segment {segment.name}: {self._log.text()}")

    def close(self) -> None:
        """Free contexts, engines and device memory, in that order. Closing twice is harmless."""
        if self._driver is not None:
            self._driver.make_current()
            self._contexts, self._engines = {}, {}
            self._driver.close()
            self._driver = None

    def __enter__(self) -> TensorRTBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def _check_version(bundle: Bundle, trt: ModuleType) -> None:
    if bundle.engines.version != trt.__version__:
        raise IntegrityError(
            f"The engines of {bundle.path} were built by {bundle.engines.flavour} {bundle.engines.version}, and"
            f" {trt.__version__} is installed here: run `psamf-edge compile` again on this machine."
        )
