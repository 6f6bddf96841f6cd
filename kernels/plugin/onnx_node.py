"""A file with the node `psamf::CrossModalAttention`, made ready for TensorRT's parser to find the plugin."""

from __future__ import annotations

import onnx
from onnx import helper

from psamf_edge.kernels.plugin import NAME, NAMESPACE, VERSION


def for_plugin(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the node named as a plugin, and without its function body, which a parser would inline."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = [function for function in made.functions if (function.domain, function.name) != (NAMESPACE, NAME)]
    del made.functions[:]
    made.functions.extend(kept)
    for node in made.graph.node:
        if (node.domain, node.op_type) == (NAMESPACE, NAME):
            node.attribute.append(helper.make_attribute("plugin_namespace", NAMESPACE))
            node.attribute.append(helper.make_attribute("plugin_version", VERSION))
    return made
