"""The plan through ONNX Runtime, on any CPU, and on a CUDA GPU where onnxruntime-gpu is installed."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from onnxruntime import InferenceSession

from psamf_edge.backends.sessions import open_session
from psamf_edge.bundle import Bundle, PlanKernel, PlanSegment
from psamf_edge.errors import InputError, MissingDependencyError, UsageError
from psamf_edge.plan import Features, Outputs, Tensors, check_plan, score

CUDA_PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeBackend:
    """One ONNX Runtime session for each segment.

    Args:
        bundle: what `open_bundle` gave.
        device: "cpu" or "cuda".
        threads: intra-op threads of each session.
        note: passed on to the user.

    Raises:
        IntegrityError: a file is damaged, or the plan is broken.
        MissingDependencyError: device is "cuda", and ONNX Runtime has no CUDA or finds no GPU.
        UsageError: device is "cuda", and the bundle is quantised for the CPU; or the plan launches a CUDA kernel.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int = 1, note: str | None = None) -> None:
        self.precision, self.note = bundle.precision, note
        self._bundle = bundle
        check_plan(bundle)
        for step in bundle.plan:
            is_kernel = isinstance(step, PlanKernel)
            if is_kernel or step.plugin is not None:
                what = f"launches the CUDA kernel {step.name} between" if is_kernel else "has a CUDA kernel inside its"
                raise UsageError(
                    f"The bundle {bundle.name} {what} TensorRT engines, which ONNX Runtime cannot: use `--device cuda`,"
                    " or make another with `psamf-edge compile --target cpu`."
                )
        providers = _cuda_providers(bundle) if device == "cuda" else ("CPUExecutionProvider",)
        self._sessions = {
            segment.name: open_session(bundle.read(segment.file), segment.file, threads, providers, InferenceSession)
            for segment in bundle.plan
        }
        for name, session in self._sessions.items():
            if session.get_providers()[0] != providers[0]:  # ONNX Runtime falls back without a word
                raise MissingDependencyError(
                    f"ONNX Runtime could not put the segment {name} on a GPU: check that `nvidia-smi` lists one and"
                    " that the CUDA and cuDNN versions suit your onnxruntime-gpu, or use `--device cpu`."
                )

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


def _cuda_providers(bundle: Bundle) -> tuple[str, ...]:
    import onnxruntime as ort

    if CUDA_PROVIDER not in ort.get_available_providers():
        raise MissingDependencyError(
            "This ONNX Runtime has no CUDA: install it with `pip install onnxruntime-gpu` in place of onnxruntime, or"
            " compile a bundle for TensorRT with `psamf-edge compile --target rtx`, or use `--device cpu`."
        )
    if bundle.precision == "int8":
        raise UsageError(
            f"The bundle {bundle.name} is quantised for the CPU, and its int8 operators do not exist on CUDA: make one"
            " with `psamf-edge compile --precision fp32`, or use `--device cpu`."
        )
    return (CUDA_PROVIDER, "CPUExecutionProvider")
