"""Backends: each runs the plan of a bundle on one kind of device, behind the same three methods."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Protocol

from psamf_edge.bundle import Bundle
from psamf_edge.errors import MissingDependencyError, UsageError
from psamf_edge.plan import Features, Outputs

ONNXRUNTIME_GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt")
DEVICES = ("auto", "cpu", "cuda", *ONNXRUNTIME_GPU)


class Backend(Protocol):
    """A loaded model. Use it as a context manager."""

    name: str  # "onnxruntime", one of ONNXRUNTIME_GPU, or "tensorrt"
    precision: str
    note: str | None  # what the user should know about the choice of device

    def run(self, features: Features) -> Outputs:
        """Score one utterance. Raises InputError: nothing is present, or a feature is not usable."""

    def close(self) -> None:
        """Give memory back. Closing twice is harmless."""

    def __enter__(self) -> Backend: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_backend(bundle: Bundle, device: str = "auto", threads: int = 1) -> Backend:
    """Load a bundle onto a device.

    Args:
        bundle: what `open_bundle` gave.
        device: "cpu"; "cuda", which never falls back to the CPU; or "auto": the GPU if the bundle was compiled for one
            and there is one, else the CPU, with the reason in `Backend.note`, if its plan holds no CUDA kernel.
            TensorRT builds what engines the bundle lacks, which takes minutes, once. Or one of ONNXRUNTIME_GPU:
            ONNX Runtime on a GPU, which never falls back either.
        threads: for the CPU. One is fastest for short utterances.

    Raises:
        UsageError: an unknown device, or a bundle that the device cannot run.
        MissingDependencyError: a GPU was asked for and something it needs is not here, or TensorRT does not serve it.
        IntegrityError: a file of the bundle is damaged.
        BuildError: TensorRT builds no engine of a segment.
    """
    from psamf_edge.backends.onnxruntime import OnnxRuntimeBackend
    from psamf_edge.backends.tensorrt import TensorRTBackend

    if device not in DEVICES:
        raise UsageError(f"Unknown device {device!r}; allowed are {', '.join(DEVICES)}.")
    if threads < 1:
        raise UsageError(f"threads is {threads}; allowed is 1 or more.")
    if device not in ("auto", "cpu") and (bundle.target, bundle.precision) == ("cpu", "int8"):
        how = "--target cpu --precision fp32" if device in ONNXRUNTIME_GPU else "--target rtx` or `--target tensorrt"
        raise UsageError(
            f"The bundle {bundle.name} is quantised for the CPU, and its int8 operators do not exist on a GPU: make one"
            f" for {device} with `psamf-edge compile {how}`, or use `--device cpu`."
        )
    if device in ONNXRUNTIME_GPU:
        return OnnxRuntimeBackend(bundle, device, threads)
    if device == "cuda":
        if bundle.target != "cpu":
            return TensorRTBackend(bundle)
        try:
            return OnnxRuntimeBackend(bundle, "onnxruntime-cuda", threads)
        except MissingDependencyError:
            with suppress(MissingDependencyError):  # the first lack is the one that is least to mend
                return TensorRTBackend(bundle)
            raise
    note = None
    if device == "auto" and bundle.target != "cpu":
        try:
            return TensorRTBackend(bundle)
        except MissingDependencyError as error:
            if bundle.needs_gpu:
                raise  # a plan with our CUDA kernel in it has nowhere else to go
            note = f"Running on the CPU, although the bundle was compiled for a GPU. {error}"
    return OnnxRuntimeBackend(bundle, "cpu", threads, note)
