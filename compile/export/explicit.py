"""Weights and activations of products as eight-bit numbers, between QuantizeLinear and DequantizeLinear nodes.

TensorRT takes a product between such nodes for one of eight-bit numbers: symmetric ones (no zero point but 0), one
scale for an activation, one for each output channel of a weight (int8). All other nodes stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from psamf_edge.compile.quantisation.formats import Format
from psamf_edge.compile.quantisation.products import products
from psamf_edge.compile.quantisation.ranges import Activation, weight_range


def quantise_explicitly(
    model: onnx.ModelProto, activations: Mapping[str, Activation], form: Format, kept: Collection[str] = ()
) -> onnx.ModelProto:
    """The same model with Q/DQ nodes before both inputs of each product that an activation names.

    Args:
        model: in float32.
        activations: of a tensor's name, how it is quantised, and for which products.
        form: of the numbers.
        kept: the names of products that stay as they are.
    """
    chosen = {name for activation in activations.values() for name in activation.products} - set(kept)
    sides = {product.node: product for product in products(model) if product.node in chosen}
    writer = _Writer(model, activations, form)
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if (product := sides.get(node.name)) is not None:
            copy.input[0] = writer.activation(product.activation)
            copy.input[1] = writer.weight(product.weight, product.axis, product.activation)
        writer.nodes.append(copy)
    read = {name for node in writer.nodes for name in node.input} | {value.name for value in model.graph.output}
    weights = [weight for weight in (*model.graph.initializer, *writer.weights) if weight.name in read]
    graph = model.graph
    made = helper.make_model(
        helper.make_graph(writer.nodes, graph.name, graph.input, graph.output, weights, value_info=graph.value_info),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
    onnx.checker.check_model(made)
    return made


class _Writer:
    """Makes the nodes and constants of one graph, each on first use.

    TensorRT names a layer after each constant, so that a node's name has to be another.
    """

    def __init__(self, model: onnx.ModelProto, activations: Mapping[str, Activation], form: Format) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._given = {weight.name: weight for weight in model.graph.initializer}
        self._activations, self._form = activations, form
        self._done: dict[tuple[str, ...], str] = {}

    def activation(self, name: str) -> str:
        """The name of a tensor after smoothing, Q and DQ."""
        if (name,) not in self._done:
            how, source = self._activations[name], name
            if how.smoothing is not None:
                factor = self._constant(f"{name}.smoothing", 1 / how.smoothing)
                source = self._node("Mul", [name, factor], f"{name}.smooth")
            scale = self._constant(f"{name}.scale", np.float32(how.greatest / self._form.greatest))
            zero = self._bits(f"{name}.zero", np.zeros(()))  # gives QuantizeLinear its type
            bits = self._node("QuantizeLinear", [source, scale, zero], f"{name}.quantised")
            self._done[name,] = self._node("DequantizeLinear", [bits, scale, zero], f"{name}.dequantised")
        return self._done[name,]

    def weight(self, name: str, axis: int, activation: str) -> str:
        """The name of a weight, dequantised, for products that read this activation."""
        key = (name, str(axis), activation)
        if key not in self._done:
            matrix = numpy_helper.to_array(self._given[name])  # (K, N), or (N, K) where axis is 0
            if (smoothing := self._activations[activation].smoothing) is not None:
                matrix = matrix * (smoothing[:, None] if axis == 1 else smoothing)
            scale = (weight_range(matrix, axis, self._form) / self._form.greatest).astype(np.float32)
            place = f"{name}.for.{activation}"
            bits = self._bits(f"{place}.quantised", self._form.round(matrix / scale))
            attributes = {"axis": axis} if self._form.by_channel else {}
            factor = self._constant(f"{place}.scale", scale.reshape(-1 if self._form.by_channel else ()))
            self._done[key] = self._node("DequantizeLinear", [bits, factor], f"{place}.dequantised", **attributes)
        return self._done[key]

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: int) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], f"{operator}.{output}", **attributes))
        return output

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _bits(self, name: str, values: np.ndarray) -> str:
        raw = np.ascontiguousarray(self._form.bits(values)).tobytes()
        self.weights.append(helper.make_tensor(name, self._form.kind, values.shape, raw, raw=True))
        return name
