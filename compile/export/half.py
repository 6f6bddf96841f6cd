"""Float32 segments to float16, in the file itself: a strongly typed network takes its types from the ONNX graph.

Weights and products become half precision. Statistics, the normalisation of raw features, inputs and outputs stay
float32, with casts between the two. (ONNX Runtime's converter breaks graphs in which two such nodes share a weight.)
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# sums over many terms, and what is built on them; and operators whose float32 output is part of their definition
FLOAT32_OPERATORS = {"LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "Pow", "Sqrt", "Cast", "Constant"}


def to_half(model: onnx.ModelProto, borders: Collection[str] = (), kept: Collection[str] = ()) -> onnx.ModelProto:
    """The same model, computing in float16 all that float16 can bear.

    borders: the inputs and outputs that become float16 too, as a kernel between two segments wants them; all others
        keep their types.
    kept: the names of nodes that stay float32 whatever they could bear.
    """
    types = _element_types(model)
    exact = _normalisation(model) | set(kept)
    weights = {weight.name: weight for weight in model.graph.initializer}
    given, made_last = ([_typed(value, borders) for value in side] for side in (model.graph.input, model.graph.output))
    outputs = {value.name: value.type.tensor_type.elem_type for value in made_last}
    half = {value.name for value in given if value.type.tensor_type.elem_type == HALF}  # tensors that are float16
    nodes: list[onnx.NodeProto] = []
    kept: dict[str, onnx.TensorProto] = {}
    casts: dict[tuple[str, int], str] = {}  # tensor and wanted type to the name of the cast

    def fetch(name: str, wanted: int) -> str:
        """The name of a tensor in the wanted type; a weight or a cast is made on first use."""
        if name in weights:
            if types[name] != FLOAT or wanted == FLOAT:
                kept[name] = weights[name]
                return name
            value = numpy_helper.to_array(weights[name]).astype(np.float16)
            kept[f"{name}.half"] = numpy_helper.from_array(value, f"{name}.half")
            return f"{name}.half"
        if types.get(name) != FLOAT or (name in half) == (wanted == HALF):
            return name
        if (name, wanted) not in casts:
            cast = f"{name}.{'half' if wanted == HALF else 'float'}"
            nodes.append(helper.make_node("Cast", [name], [cast], f"cast.{cast}", to=wanted))
            casts[name, wanted] = cast
        return casts[name, wanted]

    for node in model.graph.node:
        kind = FLOAT if node.op_type in FLOAT32_OPERATORS or node.name in exact else HALF
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [fetch(name, kind) for name in node.input]
        nodes.append(copy)
        for name in (name for name in node.output if types.get(name) == FLOAT):
            leaves_as = outputs.get(name, kind)
            if leaves_as == HALF:
                half.add(name)
            if leaves_as != kind:  # the name belongs to the tensor that leaves the graph
                inner = f"{name}.{'half' if kind == HALF else 'float'}"
                copy.output[:] = [inner if output == name else output for output in copy.output]
                nodes.append(helper.make_node("Cast", [inner], [name], f"cast.{name}", to=leaves_as))
                casts[name, kind] = inner
    graph = helper.make_graph(nodes, model.graph.name, given, made_last, list(kept.values()))
    converted = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    onnx.checker.check_model(converted)
    return converted


def _typed(value: onnx.ValueInfoProto, borders: Collection[str]) -> onnx.ValueInfoProto:
    """An input or output of the model, as float16 if it is a border of float32."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    if value.name in borders and value.type.tensor_type.elem_type == FLOAT:
        copy.type.tensor_type.elem_type = HALF
    return copy


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The type of every tensor in the graph."""
    graph = shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {weight.name: weight.data_type for weight in graph.initializer}


def _normalisation(model: onnx.ModelProto) -> set[str]:
    """The nodes that bring raw features into the range of the Clip: in float16, 400 Hz has steps of 0.25 Hz."""
    features = {value.name for value in model.graph.input} & {"audio", "face"}
    names = set()
    for node in model.graph.node:  # in topological order
        if features & set(node.input):
            names.add(node.name)
            if node.op_type != "Clip":
                features |= set(node.output)
    return names
