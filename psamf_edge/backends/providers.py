"""Which of ONNX Runtime's execution providers run a segment, and with what options.

Those of a GPU have not run on one yet. They are asked for by name and never replaced in silence: ONNX Runtime's own
fallback is off (psamf_edge.backends.sessions), and what a session really uses is looked at after it was opened.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from psamf_edge.backends.profile import ranges_of
from psamf_edge.backends.sessions import open_session
from psamf_edge.bundle import Bundle, PlanSegment
from psamf_edge.engine_cache import EngineCache, key_of
from psamf_edge.errors import IntegrityError, MissingDependencyError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# of each device: the provider that must be there, and those that compute what it cannot, such as the sizes of tensors
ORDER = {"cpu": (CPU,), "onnxruntime-cuda": (CUDA, CPU), "onnxruntime-tensorrt": (TENSORRT, CUDA, CPU)}
INSTALL = {
    CUDA: "install it with `pip install onnxruntime-gpu` in place of onnxruntime, or compile a bundle for TensorRT with"
    " `psamf-edge compile --target rtx`",
    TENSORRT: "install it with `pip install onnxruntime-gpu` in place of onnxruntime, and the TensorRT that it names in"
    " its documentation",
}


def check_device(device: str) -> None:
    """Raise MissingDependencyError where this ONNX Runtime cannot run a bundle there."""
    wanted = ORDER[device][0]
    if wanted not in ort.get_available_providers():
        raise MissingDependencyError(
            f"This ONNX Runtime {ort.__version__} has no {wanted}: {INSTALL[wanted]}, or use `--device cpu`."
        )


def open_on_gpu(bundle: Bundle, segment: PlanSegment, device: str, content: bytes) -> ort.InferenceSession:
    """A session of one segment on a device that is not "cpu".

    Args:
        content: of the segment's file.

    Raises:
        MissingDependencyError: the provider does not take it.
    """
    wanted, cause = ORDER[device][0], ""
    options = {TENSORRT: _tensorrt_options(bundle, segment, content)} if wanted == TENSORRT else {}
    providers = [(name, options.get(name, {})) for name in ORDER[device]]
    try:
        session = open_session(
            content, segment.file, 1, providers, ort.InferenceSession, integer_products=bundle.target == "cpu"
        )
        if session.get_providers()[0] == wanted:  # ONNX Runtime may take the next one without a word
            return session
    except IntegrityError as error:  # the file is what the manifest says it is: it is the provider that fails
        cause = f" ({error.__cause__ or error})"
    raise MissingDependencyError(
        f"ONNX Runtime could not put the segment {segment.name} on a GPU with its {wanted}{cause}: check that"
        " `nvidia-smi` lists one and that the versions of CUDA, cuDNN and TensorRT suit your onnxruntime-gpu, or use"
        " `--device cpu`."
    )


def _tensorrt_options(bundle: Bundle, segment: PlanSegment, content: bytes) -> dict[str, str]:
    """How engines are built and where they are kept. Without a place for them they are built at every start.

    No precision is switched on: each is in the file, and keeps to it in a strongly typed network, which ONNX Runtime
    makes only where neither trt_fp16_enable nor trt_int8_enable is set.
    """
    return _profile(bundle, segment, content) | _kept(EngineCache().folder(_cache_key(bundle, segment)))


def _cache_key(bundle: Bundle, segment: PlanSegment) -> str:
    """ONNX Runtime names an engine after its graph, not after its weights, nor after its own version."""
    versions = {"onnxruntime": ort.__version__, "build": ort.get_build_info()}
    return key_of({"bundle": bundle.manifest_sha256, "segment": segment.name, **versions})


def _kept(folder: Path | None) -> dict[str, str]:
    """Options by which engines and timings survive the process; none if there is nowhere to keep them."""
    if folder is None:
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _profile(bundle: Bundle, segment: PlanSegment, content: bytes) -> dict[str, str]:
    """One profile over all lengths: else TensorRT builds the engine anew for every length it has not met."""
    ranges = ranges_of(bundle.shapes)
    inputs = open_session(content, segment.file).get_inputs()
    options = {}
    for which, name in enumerate(("min", "opt", "max")):
        shapes = [
            f"{value.name}:{'x'.join(str(ranges[axis][which] if axis in ranges else axis) for axis in value.shape)}"
            for value in inputs
        ]
        options[f"trt_profile_{name}_shapes"] = ",".join(shapes)
    return options
