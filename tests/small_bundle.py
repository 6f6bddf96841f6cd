"""A bundle of two segments made by hand, which ONNX Runtime and TensorRT-RTX take: it needs no PyTorch to make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from psamf_edge.bundle import Bundle, EngineOrigin, PlanSegment, Shapes
from psamf_edge.plan import Features

SHAPES = Shapes(8, 4, 32, 63, 69, 8, 1, 10, 10, 128, 3000, 300)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def _model(nodes: list, inputs: list, outputs: list, weights: list) -> onnx.ModelProto:
    values = [[helper.make_tensor_value_info(*value) for value in side] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "small", *values, [numpy_helper.from_array(*weight) for weight in weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def text_model() -> onnx.ModelProto:
    """ids and text_mask to pooled (1, 1): the mean of the table's rows, in [-1, 1]."""
    table = np.linspace(-1, 1, SHAPES.vocabulary, dtype=np.float32)
    weights = [(table, "table"), (np.array([1]), "one"), (np.ones((1, 1), np.float32), "least")]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["values"], "look_up"),
        helper.make_node("Mul", ["values", "text_mask"], ["kept"], "mask"),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], "sum_up", keepdims=1),
        helper.make_node("ReduceSum", ["text_mask", "one"], ["ones"], "count_up", keepdims=1),
        helper.make_node("Max", ["ones", "least"], ["count"], "at_least_one"),
        helper.make_node("Div", ["sum", "count"], ["pooled"], "mean"),
    ]
    inputs = [("ids", INT64, [1, "tokens"]), ("text_mask", FLOAT, [1, "tokens"])]
    return _model(nodes, inputs, [("pooled", FLOAT, [1, 1])], weights)


def fusion_model() -> onnx.ModelProto:
    """pooled and present to score and log_scale (1, subsets)."""
    nodes = [
        helper.make_node("ReduceSum", ["present", "two"], ["count"], "count_up", keepdims=0),
        helper.make_node("Mul", ["count", "pooled"], ["score"], "scale"),
        helper.make_node("Neg", ["count"], ["log_scale"], "negate"),
    ]
    inputs = [("pooled", FLOAT, [1, 1]), ("present", FLOAT, [1, "subsets", 3])]
    outputs = [(name, FLOAT, [1, "subsets"]) for name in ("score", "log_scale")]
    return _model(nodes, inputs, outputs, [(np.array([2]), "two")])


def small_bundle(
    path: Path, target: str = "rtx", precision: str = "fp32", engines: EngineOrigin | None = None, **files: bytes
) -> Bundle:
    """Write it. With `engines`, each segment's engine is its ONNX file, as the stand-in has it, or is in `files`."""
    from psamf_edge.compile.export.pack import BundleContent, write_bundle

    models = {"text": text_model().SerializeToString(), "fusion": fusion_model().SerializeToString()}
    plan = (
        PlanSegment("text", "text.onnx", ("ids", "text_mask"), ("pooled",)),
        PlanSegment("fusion", "fusion.onnx", ("pooled", "present"), ("score", "log_scale")),
    )
    content = {f"{name}.onnx": model for name, model in models.items()}
    if engines is not None:
        plan = tuple(PlanSegment(s.name, s.file, s.inputs, s.outputs, engine=f"{s.name}.engine") for s in plan)
        content |= {f"{name}.engine": files.get(name, model) for name, model in models.items()}
    return write_bundle(path, BundleContent("small", target, precision, plan, SHAPES, "x", engines), content)


def words(*ids: int) -> Features:
    """An utterance of these token ids."""
    return Features(np.array(ids))


def expected(*ids: int) -> float:
    """What the small bundle scores it."""
    return float(np.linspace(-1, 1, SHAPES.vocabulary, dtype=np.float32)[list(ids)].mean())
