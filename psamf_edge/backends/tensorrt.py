"""The plan through TensorRT engines and our own kernels, on an NVIDIA GPU.

This has been tested against a stand-in for the GPU that moves real numbers, and its engines have been built by
TensorRT-RTX 1.7; it has not yet run on a GPU.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from types import ModuleType, TracebackType

import numpy as np

from psamf_edge.backends.driver import Driver, open_driver
from psamf_edge.backends.engine_builder import BuildOptions
from psamf_edge.backends.engine_source import EngineSource
from psamf_edge.backends.engines import FLAVOURS, PACKAGES, Engine, check_capability, load_tensorrt, logger_of, starting
from psamf_edge.backends.executor import Executor
from psamf_edge.backends.kernel_step import KernelStep
from psamf_edge.backends.schedule import PlanStep
from psamf_edge.bundle import Bundle, PlanKernel, PlanSegment
from psamf_edge.engine_cache import EngineCache
from psamf_edge.errors import IntegrityError, MissingDependencyError, PsamfError, UsageError
from psamf_edge.plan import Features, Outputs, Tensors, check_plan, score

RESULTS = ("score", "log_scale")


class TensorRTBackend:
    """One engine for each segment, one launch for each kernel, and an `Executor` that runs them.

    May be used from several threads, whose utterances then take turns.

    Args:
        bundle: what `open_bundle` gave. Engines that it lacks, or that do not fit, are built and kept for the next
            time (psamf_edge.engine_cache).

    Raises:
        MissingDependencyError: TensorRT, a binding of the driver, the driver or a GPU is missing, or TensorRT does not
            start here or does not serve this GPU.
        UsageError: the bundle is in fp8 and the GPU has none, or its plugin is none that this TensorRT takes.
        IntegrityError: a file of the bundle is damaged.
        BuildError: TensorRT builds no engine of a segment.
    """

    name = "tensorrt"

    def __init__(self, bundle: Bundle) -> None:
        self.precision = bundle.precision
        self.note: str | None = None
        self._bundle = bundle
        self._lock = threading.Lock()
        self._executor: Executor | None = None
        self._source: EngineSource | None = None
        self._plugins = ExitStack()
        check_plan(bundle)
        trt = _import_flavour(bundle)
        self._driver: Driver | None = open_driver()
        try:
            check_capability(bundle.precision, "{}.{}".format(*self._driver.capability))
            self._plugins.enter_context(_plugins(bundle, trt))
            gpu = self._driver.capability, self._driver.model
            self._source = EngineSource(bundle, trt, *gpu, EngineCache(), BuildOptions.from_environment())
            with self._driver.current():
                self._executor = _load(bundle, trt, self._driver, self._source)
            self.note = self._source.note
        except BaseException:
            with suppress(PsamfError):  # what went wrong first is what counts
                self.close()
            raise

    def run(self, features: Features) -> Outputs:
        """Score one utterance. Raises InputError: nothing is present, or a feature is not usable."""
        with self._lock:
            if self._executor is None:
                raise UsageError("The backend is closed: open it again with open_backend.")
            with self._driver.current():
                return score(self._bundle, _Collector(self._executor), features)

    def close(self) -> None:
        """Free graphs, contexts, engines and device memory, in that order. Closing twice is harmless."""
        with self._lock:
            driver, executor, source = self._driver, self._executor, self._source
            self._driver = self._executor = self._source = None
            with ExitStack() as last_to_first:
                if driver is not None:
                    last_to_first.callback(driver.close)
                last_to_first.callback(self._plugins.close)
                if source is not None:
                    last_to_first.enter_context(driver.current())
                    if executor is not None:
                        last_to_first.callback(executor.close)
                    source.close()

    def __enter__(self) -> TensorRTBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Collector:
    """What `plan.score` calls for each step: it takes note, and with the last step of the plan everything runs."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._steps: list[PlanStep] = []
        self._host: dict[str, np.ndarray] = {}

    def __call__(self, step: PlanStep, inputs: dict[str, np.ndarray | None]) -> Tensors | dict[str, None]:
        self._steps.append(step)
        self._host |= {name: value for name, value in inputs.items() if value is not None}
        if set(RESULTS) <= set(step.outputs):
            return self._executor.run(self._steps, self._host)
        return dict.fromkeys(step.outputs)  # they stay on the device


def _import_flavour(bundle: Bundle) -> ModuleType:
    """The flavour that the bundle was compiled for, or else the other: both build from the same ONNX files."""
    named = FLAVOURS.get(bundle.target, "tensorrt") if bundle.engines is None else bundle.engines.flavour
    has_plugin = any(isinstance(step, PlanSegment) and step.plugin is not None for step in bundle.plan)
    try:
        return load_tensorrt(named)
    except MissingDependencyError:
        for other in () if has_plugin else (flavour for flavour in PACKAGES if flavour != named):
            with suppress(MissingDependencyError):
                return load_tensorrt(other)
        raise


def _plugins(bundle: Bundle, trt: ModuleType) -> AbstractContextManager[None]:
    """What engines need in TensorRT's registry before they load: with a plugin ahead of time, nothing."""
    if any(isinstance(step, PlanSegment) and step.plugin is not None for step in bundle.plan):
        from psamf_edge.kernels.plugin.registration import PYTHON, choose, registered

        if choose(trt) == PYTHON:
            return registered(trt, PYTHON)
    return nullcontext()


def _load(bundle: Bundle, trt: ModuleType, driver: Driver, source: EngineSource) -> Executor:
    last = bundle.plan[-1]
    if not set(RESULTS) <= set(last.outputs):
        raise IntegrityError(f"The plan of {bundle.path} is broken: its last step gives {', '.join(last.outputs)}.")
    log = logger_of(trt)
    with starting(trt, "runtime"):
        runtime = trt.Runtime(log)

    def open_engine(content: bytes, segment: PlanSegment, kernels: bytes | None) -> Engine:
        return Engine(trt, runtime, log, segment, content, kernels)

    steps = [
        KernelStep(driver, bundle, step) if isinstance(step, PlanKernel) else source.engine(step, open_engine)
        for step in bundle.plan
    ]
    source.end_building()  # before the executor asks for memory
    return Executor(driver, steps, RESULTS)
