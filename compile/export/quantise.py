"""Float32 segments to int8 for the CPU: weights by channel ahead of time, activations by tensor as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from psamf_edge.compile.export import quiet

# Products with a constant weight, and the token table. Attention's q k^T and weights * v have no constant side and stay
# float; so do LayerNorm, softmax, GELU and the convolutions (ORT's integer Conv is slower than its float one).
QUANTISED_OPERATORS = ["MatMul", "Gemm", "Gather"]

# What benchmarks/cpu_choices.py found fastest and right on every processor. Seven bits of the weights are used: x86
# processors without VNNI add two products in 16 bits, which two of 255 * 127 overflow in silence and two of 255 * 64
# do not. The eighth bit brings little: most of what int8 costs comes from the activations.
HOW: Mapping[str, Any] = {"per_channel": True, "weight_type": QuantType.QInt8, "reduce_range": True}


def quantise(model: onnx.ModelProto, kept: Collection[str] = (), how: Mapping[str, Any] = HOW) -> onnx.ModelProto:
    """The same model with signed 7-bit weights in 8, one scale for each output channel.

    Args:
        model: in float32.
        kept: nodes of these names stay float.
        how: otherwise than that; options of ONNX Runtime's `quantize_dynamic`.
    """
    with (
        quiet(None),
        tempfile.TemporaryDirectory() as directory,
    ):  # ONNX Runtime's quantiser reads and writes files only
        source, target = Path(directory) / "float.onnx", Path(directory) / "int8.onnx"
        onnx.save(model, source)
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=QUANTISED_OPERATORS,
            # a Gemm is first made a MatMul of this other name
            nodes_to_exclude=[*_stacked_products(model), *sorted(kept), *sorted(f"{name}_MatMul" for name in kept)],
            extra_options={"MatMulConstBOnly": True},
            **how,
        )
        return onnx.load(target)


def _stacked_products(model: onnx.ModelProto) -> list[str]:
    """The products whose constant weight is a stack of matrices, one a head: no kernel takes those by channel."""
    stacked = {weight.name for weight in model.graph.initializer if len(weight.dims) > 2}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in stacked]
