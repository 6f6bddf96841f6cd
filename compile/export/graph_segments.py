"""The segments of a bundle's ONNX files, in the place of a student's: each is compared with its own float32 graph."""

from __future__ import annotations

from dataclasses import replace

import onnx
import torch
from torch import Tensor, nn

from psamf_edge.backends.profile import ranges_of
from psamf_edge.backends.sessions import open_session
from psamf_edge.bundle import Bundle
from psamf_edge.compile.export.segments import ExportSegment


class GraphModule(nn.Module):
    """A float32 graph in ONNX Runtime, called like the module that it was exported from."""

    def __init__(self, graph: bytes, inputs: tuple[str, ...], outputs: tuple[str, ...], name: str) -> None:
        super().__init__()
        self._session, self._inputs, self._outputs = open_session(graph, name), inputs, list(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the inputs to tensors in the order of the outputs."""
        given = {name: tensor.numpy() for name, tensor in zip(self._inputs, tensors, strict=True)}
        return tuple(map(torch.from_numpy, self._session.run(self._outputs, given)))


def segments_of(bundle: Bundle) -> tuple[list[ExportSegment], dict[str, onnx.ModelProto]]:
    """The segments of a bundle whose plan launches no kernel, and their graphs by name.

    Raises:
        IntegrityError: a file is damaged.
    """
    ranges, segments, models = ranges_of(bundle.shapes), [], {}
    for step in bundle.plan:
        graph = bundle.read(step.file)
        model = models[step.name] = onnx.load_from_string(graph)
        for number, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type}.{number}"  # a search for layers goes by names
        shapes = {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in model.graph.input
        }
        integers = {"ids": bundle.shapes.vocabulary} if "ids" in shapes else {}
        module = GraphModule(graph, tuple(shapes), step.outputs, step.file)
        segments.append(ExportSegment(replace(step, engine=None), module, shapes, integers, ranges))
    return segments, models
