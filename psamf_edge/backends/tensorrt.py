"""The plan through TensorRT engines and our own kernels, on an NVIDIA GPU.

This has been tested against a stand-in for the GPU that moves real numbers, and its engines have been built by
TensorRT-RTX 1.7; it has not yet run on a GPU.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from types import ModuleType, TracebackType

import numpy as np

from psamf_edge.backends.driver import Driver, open_driver
from psamf_edge.backends.engines import Engine, load_tensorrt, logger_of
from psamf_edge.backends.executor import Executor
from psamf_edge.backends.kernel_step import KernelStep
from psamf_edge.backends.schedule import PlanStep
from psamf_edge.bundle import Bundle, PlanKernel
from psamf_edge.errors import IntegrityError, PsamfError, UsageError
from psamf_edge.plan import Features, Outputs, Tensors, check_plan, score

RESULTS = ("score", "log_scale")


class TensorRTBackend:
    """One engine for each segment, one launch for each kernel, and an `Executor` that runs them.

    May be used from several threads, whose utterances then take turns.

    Args:
        bundle: what `open_bundle` gave, of a target with engines.

    Raises:
        MissingDependencyError: TensorRT, a binding of the driver, the driver or a GPU is missing.
        IntegrityError: an engine is damaged, or was built by another flavour or version.
    """

    name = "tensorrt"
    note = None

    def __init__(self, bundle: Bundle) -> None:
        self.precision = bundle.precision
        self._bundle = bundle
        self._lock = threading.Lock()
        self._executor: Executor | None = None
        check_plan(bundle)
        if bundle.engines is None:
            raise UsageError(
                f"The bundle {bundle.name} has no engines: make one with `psamf-edge compile --target rtx`."
            )
        trt = load_tensorrt(bundle.engines.flavour)
        _check_version(bundle, trt)
        self._driver: Driver | None = open_driver()
        try:
            with self._driver.current():
                self._executor = _load(bundle, trt, self._driver)
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
            driver, executor = self._driver, self._executor
            self._driver = self._executor = None
            if executor is not None:
                with driver.current():
                    executor.close()
            if driver is not None:
                driver.close()

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


def _load(bundle: Bundle, trt: ModuleType, driver: Driver) -> Executor:
    last = bundle.plan[-1]
    if not set(RESULTS) <= set(last.outputs):
        raise IntegrityError(f"The plan of {bundle.path} is broken: its last step gives {', '.join(last.outputs)}.")
    log = logger_of(trt)
    runtime = trt.Runtime(log)
    steps = [
        KernelStep(driver, bundle, step) if isinstance(step, PlanKernel) else Engine(trt, runtime, log, bundle, step)
        for step in bundle.plan
    ]
    return Executor(driver, steps, RESULTS)


def _check_version(bundle: Bundle, trt: ModuleType) -> None:
    if bundle.engines.version != trt.__version__:
        raise IntegrityError(
            f"The engines of {bundle.path} were built by {bundle.engines.flavour} {bundle.engines.version}, and"
            f" {trt.__version__} is installed here: run `psamf-edge compile` again on this machine."
        )
