"""Every operator of a segment held against what it is to run on, before anything is built.

For a GPU, TensorRT's own parser is asked where it is installed, and else a table of what our exports may contain. For a
CPU, ONNX Runtime loads the file. An operator that cannot run is an error with its node and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from psamf_edge.backends.sessions import StrictSession, open_session
from psamf_edge.compile.export import ExportError
from psamf_edge.compile.export.partition import Part, SegmentPart, has_kernel_nodes
from psamf_edge.errors import IntegrityError
from psamf_edge.kernels.plugin.onnx_node import for_plugin

if TYPE_CHECKING:
    from psamf_edge.backends.engine_builder import EngineBuilder, Unsupported

# of the default domain, what students are exported to and what a precision may add; TensorRT's parser takes them all
# (tests/test_preflight.py asks it). A new one belongs here once the parser has been asked.
SUPPORTED = {
    "Abs", "Add", "And", "Cast", "CastLike", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "DequantizeLinear", "Div", "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "Greater",
    "GreaterOrEqual", "Identity", "LayerNormalization", "Less", "LessOrEqual", "Log", "LSTM", "MatMul", "Max",
    "Min", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "QuantizeLinear", "Range", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt",
    "Squeeze", "Sub", "Tanh", "Transpose", "Trilu", "Unsqueeze", "Where",
}  # fmt: skip
Q_DQ = ("QuantizeLinear", "DequantizeLinear")
FP8_OPSET = 19
_CPU_INT8 = "it is a CPU's form of int8: compile from float32, where --precision int8 writes a GPU's form"
_FLOAT = "write it as the float operator between DequantizeLinear and QuantizeLinear"
_SIZES = "the size of its output depends on values: keep the size, and mask"
ALTERNATIVES = {
    **dict.fromkeys(("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"), _CPU_INT8),
    **dict.fromkeys(("QLinearMatMul", "QLinearConv"), _FLOAT),
    **dict.fromkeys(("Compress", "Unique"), _SIZES),
    **dict.fromkeys(Q_DQ, "TensorRT takes INT8 and FLOAT8E4M3FN around a zero point of 0"),
    "Attention": "write it out as MatMul, Softmax and MatMul",
}


class UnsupportedError(ExportError):
    """A segment has an operator that its target cannot run."""


def _wrong_numbers(model: onnx.ModelProto) -> Iterator[Unsupported]:
    """Q/DQ nodes whose numbers are none that TensorRT computes with, whatever its parser says of them."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    constants = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in Q_DQ:
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        bits = zero if node.op_type == "QuantizeLinear" else constants.get(node.input[0], zero)
        kind = TensorProto.UINT8 if bits is None and node.op_type == "QuantizeLinear" else bits and bits.data_type
        if kind is not None and kind not in (TensorProto.INT8, TensorProto.FLOAT8E4M3FN):
            yield node.name, node.op_type, f"its numbers are {TensorProto.DataType.Name(kind)}"
        elif kind == TensorProto.FLOAT8E4M3FN and opset < FP8_OPSET:
            yield node.name, node.op_type, f"fp8 came with opset {FP8_OPSET}, and the file has {opset}"
        elif zero is not None and any(zero.raw_data or numpy_helper.to_array(zero).tobytes()):
            yield node.name, node.op_type, "its zero point is not 0"


def check_operators(parts: Sequence[Part], target: str, builder: EngineBuilder | None, plugin: str | None) -> None:
    """Check every segment for "rtx" or "tensorrt": its operators, and the numbers of its Q/DQ nodes.

    Args:
        parts: as they are to be built.
        builder: whose parser is asked; None: the table is.
        plugin: the plugin that runs our kernel's node, or None: its function body is checked as well.

    Raises:
        UnsupportedError: naming every segment, node and operator, with what to use in its place.
    """
    lines = []
    for part in parts:
        if not isinstance(part, SegmentPart):
            continue
        model = for_plugin(part.model) if plugin is not None and has_kernel_nodes(part.model) else part.model
        if builder is None:
            found = [(node.name, node.op_type, "it is not in the table") for node in _unknown(model)]
        else:
            found = builder.unsupported(model.SerializeToString(), plugin)
        found += _wrong_numbers(model)
        lines += [_line(part.plan.name, *each) for each in dict.fromkeys(found)]
    if lines:
        raise UnsupportedError("\n".join([f"The target {target} cannot run all operators of the model:", *lines]))


def load(model: onnx.ModelProto, name: str, kind: type[ort.InferenceSession] = StrictSession) -> ort.InferenceSession:
    """A session of ONNX Runtime for the CPU, which checks every operator as it loads.

    Raises:
        UnsupportedError: it does not load, because of a node that the message names.
        IntegrityError: it does not load for another reason.
    """
    explicit = any(node.op_type == "QuantizeLinear" for node in model.graph.node)  # so it was made for a GPU
    try:
        return open_session(model.SerializeToString(), name, kind=kind, integer_products=not explicit)
    except IntegrityError as error:
        words = set(re.findall(r"[\w./]+", str(error)))
        guilty = [node for node in _nodes(model) if node.op_type in words or (node.name and node.name in words)]
        if not guilty:
            raise
        reason = str(error.__cause__ or error).splitlines()[0]
        lines = [_line(name, node.name, node.op_type, reason) for node in guilty]
        raise UnsupportedError("\n".join(["ONNX Runtime cannot run all operators of the model:", *lines])) from error


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Those of the graph, of the graphs inside its nodes, and of function bodies."""
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop(0)
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending += graph.node


def _unknown(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    bodies = {(function.domain, function.name) for function in model.functions}
    for node in _nodes(model):
        if (node.domain, node.op_type) not in bodies and (node.domain or node.op_type not in SUPPORTED):
            yield node


def _line(segment: str, node: str, operator: str, reason: str) -> str:
    alternative = ALTERNATIVES.get(operator, "write it with other operators, or use --target cpu if it runs there")
    return f"  segment {segment}, node {node or 'without a name'} ({operator}): {reason.rstrip('.')}; {alternative}."
