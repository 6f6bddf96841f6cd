"""Convolutions over steps as convolutions over an image of one row, for which alone ONNX Runtime has blocked kernels.

The encoders hold their steps as (B, T, C), so each Conv stands between two Transposes. On an image in whole blocks of
channels, ONNX Runtime 1.31 takes both Transposes into the reordering of its kernel: the voice encoder runs in 0.7 ms in
place of 0.8 (1000 hops, one thread with AVX-512). The numbers stay the same up to the order of sums.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHANNEL_BLOCK = 16  # of ONNX Runtime's kernels: the float32 numbers in an AVX-512 register
ROW = "image.row"  # the constant that names the axis of the row, in (B, 1, T, C)


def convolve_images(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with each Transpose, Conv, Transpose over (B, T, C) written for images (B, 1, T, C)."""
    image = onnx.ModelProto()
    image.CopyFrom(model)
    graph = image.graph
    weights = {weight.name: weight for weight in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    taken: set[str] = set()  # outputs of nodes that an image has replaced
    for node in graph.node:
        chain = _chain(node, readers)
        if chain is not None and len(weights[chain[1].input[1]].dims) == 3:  # (d, C, K): it is no image yet
            _, convolution, last = chain
            taken.update([*convolution.output, *last.output])
            weight = weights[convolution.input[1]]
            missing = -weight.dims[1] % CHANNEL_BLOCK
            pads = f"{weight.name}.pads" if missing else None
            if pads:
                graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 0, 0, 0, missing]), pads))
            nodes += _image_nodes(chain, pads)
            kernel = np.pad(numpy_helper.to_array(weight), ((0, 0), (0, missing), (0, 0)))[:, :, None]  # (d, C, 1, K)
            weight.CopyFrom(numpy_helper.from_array(kernel, weight.name))
        elif not taken & set(node.output):
            nodes.append(node)
    if taken:
        graph.initializer.append(numpy_helper.from_array(np.array([1]), ROW))
        del graph.node[:]
        graph.node.extend(nodes)
        onnx.checker.check_model(image)
    return image


def _chain(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto] | None:
    """The Transpose, Conv and Transpose that begin at a node, if each is read by the next alone."""
    chain = [node]
    for _ in range(2):
        following = readers.get(chain[-1].output[0], [])
        if len(following) != 1:
            return None
        chain.append(following[0])
    return chain if [link.op_type for link in chain] == ["Transpose", "Conv", "Transpose"] else None


def _image_nodes(chain: list[onnx.NodeProto], pads: str | None) -> list[onnx.NodeProto]:
    """What takes the place of a chain. pads: the constant that pads the channels to whole blocks, if they need it."""
    first, convolution, last = chain
    steps, (result,) = first.input[0], last.output
    attributes = {item.name: helper.get_attribute_value(item) for item in convolution.attribute}
    stride, (before, after) = attributes["strides"][0], attributes["pads"]
    nodes = []
    if pads:
        nodes.append(helper.make_node("Pad", [steps, pads], [f"{result}.blocks"]))
        steps = f"{result}.blocks"
    image, moved, convolved, back = (f"{result}.{part}" for part in ("image", "moved", "convolved", "back"))
    return [
        *nodes,
        helper.make_node("Unsqueeze", [steps, ROW], [image]),  # (B, 1, T, C)
        helper.make_node("Transpose", [image], [moved], perm=[0, 3, 1, 2]),  # (B, C, 1, T)
        helper.make_node(
            "Conv", [moved, *convolution.input[1:]], [convolved], strides=[1, stride], pads=[0, before, 0, after]
        ),  # (B, d, 1, T')
        helper.make_node("Transpose", [convolved], [back], perm=[0, 2, 3, 1]),  # (B, 1, T', d)
        helper.make_node("Squeeze", [back, ROW], [result]),
    ]
