"""One place that opens ONNX Runtime sessions, so that every model runs with the same measured settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's BLAS threads fight with ours on small matrices

import numpy as np
import onnxruntime as ort

from psamf_edge.backends.external_data import refuse_external_data
from psamf_edge.errors import IntegrityError


class StrictSession(ort.InferenceSession):
    """A session whose inputs are always good: a run that fails, or gives NaN or infinity, is the model's fault."""

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, np.ndarray], *options
    ) -> list[np.ndarray]:
        """As ONNX Runtime's. Raises IntegrityError."""
        try:
            outputs = super().run(output_names, input_feed, *options)
        except Exception as error:  # onnxruntime raises many private classes
            raise IntegrityError(f"The model {self.name} does not do what it is there for: {error}") from error
        names = output_names or [output.name for output in self.get_outputs()]
        for name, output in zip(names, outputs, strict=True):
            if not np.isfinite(output).all():
                raise IntegrityError(f"The model {self.name} gave {name} with NaN or infinity: fetch the bundle again.")
        return outputs


# on 50 tokens of width 384 the fused kernel takes 100 us, Add and LayerNormalization together 20 (ONNX Runtime 1.31)
DISABLED = ("SkipLayerNormFusion",)


def session_options(
    threads: int = 1,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    arena: bool = False,
    spinning: bool = False,
    integer_products: bool = True,
) -> ort.SessionOptions:
    """What every session is opened with. The defaults are those that benchmarks/cpu_choices.py measured as best.

    Args:
        threads: intra-op threads.
        level: of graph optimisation.
        arena: whether buffers are kept from one run to the next.
        spinning: whether threads without work wait at full load for some, to begin a little sooner.
        integer_products: whether a product between Q/DQ nodes may become one of integers. On x86 processors without
            VNNI those overflow in silence, as TensorRT's do not; without, it is one of floats that were rounded.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = level
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3  # errors only: stdout and stderr belong to the user
    options.add_session_config_entry("session.load_model_format", "ONNX")  # its own format is not what was checked
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.disable_quant_qdq", str(int(not integer_products)))
    return options


def open_session(
    onnx_bytes: bytes,
    name: str,
    threads: int = 1,
    providers: Sequence = ("CPUExecutionProvider",),
    kind: type[ort.InferenceSession] = StrictSession,
    integer_products: bool = True,
) -> ort.InferenceSession:
    """Open a model from bytes that were already read and verified; never from a path (see external_data).

    Args:
        onnx_bytes: the serialised ONNX model.
        name: what to call it in errors.
        threads: intra-op threads. One is fastest for the small nets here (benchmarks/results).
        providers: ONNX Runtime's execution providers in order, each a name or a pair of name and options.
        kind: ONNX Runtime's own session for who checks inputs and outputs.
        integer_products: as in `session_options`; False for what was made for a GPU.

    Raises:
        IntegrityError: the bytes are not a model that ONNX Runtime can load, or keep weights in another file.
    """
    refuse_external_data(onnx_bytes, name)
    options = session_options(threads, integer_products=integer_products)
    try:
        session = kind(
            onnx_bytes,
            options,
            providers=list(providers),
            disabled_optimizers=list(DISABLED),
            enable_fallback=0,  # to another provider, which ONNX Runtime's Python would tell on stdout
        )
    except Exception as error:  # onnxruntime raises many private classes
        raise IntegrityError(f"The model {name} cannot be loaded by ONNX Runtime {ort.__version__}: {error}") from error
    session.name = name
    return session
