"""Float32 segments to float16, in the file itself: a strongly typed network takes its types from the ONNX graph.

Weights and products become half precision. Statistics, the normalisation of raw features, inputs and outputs stay
float32, with casts between the two. (ONNX Runtime's converter breaks graphs in which two such nodes share a weight.)
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# sums over many terms, and what is built on them; and operators whose float32 output is part of their definition
FLOAT32_OPERATORS = {"LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "Pow", "Sqrt", "Cast", "Constant"}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model, computing in float16 all that float16 can bear. Inputs and outputs keep their types."""
    types = _element_types(model)
    exact = _normalisation(model)
    weights = {weight.name: weight for weight in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    half: set[str] = set()  # tensors that are float16
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
        made = [name for name in node.output if kind == HALF and types.get(name) == FLOAT]
        for name in made:
            if name in outputs:  # the name belongs to the float32 tensor that leaves the graph
                copy.output[:] = [f"{name}.half" if output == name else output for output in copy.output]
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], f"cast.{name}", to=FLOAT))
                casts[name, HALF] = f"{name}.half"
            else:
                half.add(name)
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, list(kept.values()))
    converted = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(converted)
    return converted


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
