"""Weights as 8-bit integers in the file, arithmetic as before: what TensorRT and TensorRT-RTX build of Q/DQ nodes.

Each weight of a product or convolution is an int8 constant behind a DequantizeLinear with one scale for each output
channel, signed and symmetric. Activations are not touched, so that no data is needed to calibrate them.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

GREATEST = 127  # symmetric: -128 is not used, so that the negative of a weight is as exact as the weight


def quantise_weights(model: onnx.ModelProto, kept: Collection[str] = ()) -> onnx.ModelProto:
    """The same model with int8 weights in every MatMul, Gemm and Conv that has a constant one, but for those `kept`."""
    model, source = onnx.ModelProto(), model
    model.CopyFrom(source)
    weights = {weight.name: weight for weight in model.graph.initializer}
    done: dict[tuple[str, int], str] = {}  # a weight and its axis of channels to what takes its place
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        axis = None if node.name in kept else _channel_axis(node, weights)
        if axis is not None:
            name = node.input[1]
            if (name, axis) not in done:
                integers, scale = _integers(numpy_helper.to_array(weights[name]), axis)
                done[name, axis] = f"{name}.dequantised.{axis}"
                parts = [f"{name}.int8.{axis}", f"{name}.scale.{axis}"]
                model.graph.initializer.extend(map(numpy_helper.from_array, (integers, scale), parts))
                # TensorRT names a layer after each constant, so the node's name has to be another
                nodes.append(
                    helper.make_node("DequantizeLinear", parts, [done[name, axis]], done[name, axis], axis=axis)
                )
            node.input[1] = done[name, axis]
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    kept = [weight for weight in model.graph.initializer if weight.name in read]
    model = helper.make_model(
        helper.make_graph(
            nodes, model.graph.name, model.graph.input, model.graph.output, kept, value_info=model.graph.value_info
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
    onnx.checker.check_model(model)
    return model


def _channel_axis(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> int | None:
    """The axis of the output channels in a node's constant weight; None if it has none."""
    weight = weights.get(node.input[1]) if node.op_type in ("MatMul", "Gemm", "Conv") else None
    if weight is None or len(weight.dims) < 2:
        return None
    if node.op_type == "Conv":
        return 0
    transposed = any(item.name == "transB" and item.i for item in node.attribute)  # of Gemm alone
    return 0 if transposed else len(weight.dims) - 1


def _integers(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and float32 scales (channels,), so that values * scale along the axis is the weight, rounded."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others, keepdims=True)  # of each channel
    scale = np.where(peak > 0, peak, 1.0) / GREATEST  # a channel of zeros has any scale
    return np.rint(weight / scale).astype(np.int8), scale.ravel().astype(np.float32)
