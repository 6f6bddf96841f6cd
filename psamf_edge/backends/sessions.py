"""One place that opens ONNX Runtime sessions, so that every model runs with the same measured settings."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's BLAS threads fight with ours on small matrices

import onnxruntime as ort

from psamf_edge.errors import IntegrityError


def open_session(
    onnx_bytes: bytes, name: str, threads: int = 1, providers: tuple = ("CPUExecutionProvider",)
) -> ort.InferenceSession:
    """Open a model from bytes that were already read and verified; never from a path (no external data is followed).

    Args:
        onnx_bytes: the serialised ONNX model.
        name: what to call it in errors.
        threads: intra-op threads. One is fastest for the small nets here (benchmarks/results).
        providers: ONNX Runtime execution providers, in order.

    Raises:
        IntegrityError: the bytes are not a model that ONNX Runtime can load.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only: stdout and stderr belong to the user
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn a core
    # on 50 tokens of width 384 the fused kernel takes 100 us, Add and LayerNormalization together 20 (ONNX Runtime
    # 1.31)
    disabled = ["SkipLayerNormFusion"]
    try:
        return ort.InferenceSession(onnx_bytes, options, providers=list(providers), disabled_optimizers=disabled)
    except Exception as error:  # onnxruntime raises many private classes
        raise IntegrityError(f"The model {name} cannot be loaded by ONNX Runtime {ort.__version__}: {error}") from error
