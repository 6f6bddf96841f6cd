"""The plan through ONNX Runtime, on any CPU, and on an NVIDIA GPU where onnxruntime-gpu is installed."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from onnxruntime import InferenceSession

from psamf_edge.backends.providers import check_device, open_on_gpu
from psamf_edge.backends.sessions import open_session
from psamf_edge.bundle import Bundle, PlanKernel, PlanSegment
from psamf_edge.errors import InputError, UsageError
from psamf_edge.plan import Features, Outputs, Tensors, check_plan, score


class OnnxRuntimeBackend:
    """One ONNX Runtime session for each segment.

    Args:
        bundle: what `open_bundle` gave.
        device: "cpu", "onnxruntime-cuda" or "onnxruntime-tensorrt".
        threads: intra-op threads of each session.
        note: passed on to the user.

    Raises:
        IntegrityError: a file is damaged, or the plan is broken.
        MissingDependencyError: a GPU is asked for, and ONNX Runtime has no provider for it or finds none.
        UsageError: a GPU is asked for, and the bundle is quantised for the CPU; or the plan launches a CUDA kernel.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int = 1, note: str | None = None) -> None:
        self.name = "onnxruntime" if device == "cpu" else device
        self.precision, self.note = bundle.precision, note
        self._bundle = bundle
        check_plan(bundle)
        for step in bundle.plan:
            is_kernel = isinstance(step, PlanKernel)
            if is_kernel or step.plugin is not None:
                how = "--target cpu" if device == "cpu" else "--target cpu --precision fp32"
                what = f"launches the CUDA kernel {step.name} between" if is_kernel else "has a CUDA kernel inside its"
                raise UsageError(
                    f"The bundle {bundle.name} {what} TensorRT engines, which ONNX Runtime cannot: use `--device cuda`,"
                    f" or make another with `psamf-edge compile {how}`."
                )
        check_device(device)
        self._sessions = {}
        for segment in bundle.plan:
            content = bundle.read(segment.file)
            if device == "cpu":
                session = open_session(
                    content, segment.file, threads, kind=InferenceSession, integer_products=bundle.target == "cpu"
                )
            else:
                session = open_on_gpu(bundle, segment, device, content)
            self._sessions[segment.name] = session

    def run(self, features: Features) -> Outputs:
        """Score one utterance. Raises InputError: nothing is present, or a feature is not usable."""
        if not self._sessions:
            raise UsageError("The backend is closed: open it again with open_backend.")
        return score(self._bundle, self._run_segment, features)

    def _run_segment(self, segment: PlanSegment, inputs: dict[str, np.ndarray]) -> Tensors:
        try:
            outputs = self._sessions[segment.name].run(list(segment.outputs), inputs)
        except Exception as error:  # onnxruntime raises many private classes
            raise InputError(f"ONNX Runtime failed in the segment {segment.name}: {error}") from error
        return dict(zip(segment.outputs, outputs, strict=True))

    def close(self) -> None:
        """Free the sessions. Closing twice is harmless."""
        self._sessions = {}

    def __enter__(self) -> OnnxRuntimeBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
