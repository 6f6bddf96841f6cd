"""Which products of a graph take eight-bit inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

# the text trunk, and of the fusion the part before our kernel, or all of it where it is not cut
QUANTISED_PARTS = ("text", "fusion", "query")


@dataclass(frozen=True)
class Product:
    """One MatMul or Gemm of an activation and a constant matrix.

    axis: of the matrix' output channels. size: of the matrix, input and output channels.
    """

    node: str
    activation: str
    weight: str
    axis: int
    size: tuple[int, int]


def products(model: onnx.ModelProto) -> Iterator[Product]:
    """All of a graph, in its order. Attention's own products have no constant side, and a stack of matrices is none."""
    sizes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    for node in model.graph.node:
        size = sizes.get(node.input[1], ()) if node.op_type in ("MatMul", "Gemm") else ()
        if len(size) == 2 and node.input[0] not in sizes:
            transposed = any(item.name == "transB" and item.i for item in node.attribute)
            yield Product(
                node.name, node.input[0], node.input[1], 0 if transposed else 1, size[::-1] if transposed else size
            )
