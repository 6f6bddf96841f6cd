"""Operators that a target cannot run, in graphs made for it: the error names node, operator and what to do."""

from __future__ import annotations

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import TensorProto, helper

from psamf_edge.backends.engine_builder import EngineBuilder
from psamf_edge.bundle import PlanSegment
from psamf_edge.compile.export.cross_modal_op import DOMAIN, INPUTS, OP, attach_body
from psamf_edge.compile.export.partition import SegmentPart
from psamf_edge.compile.export.preflight import SUPPORTED, UnsupportedError, _nodes, check_operators, load
from psamf_edge.errors import IntegrityError


@pytest.fixture(scope="module")
def builder() -> EngineBuilder:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    return EngineBuilder("tensorrt_rtx")


def part(*nodes: onnx.NodeProto, name: str = "text") -> SegmentPart:
    values = [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, "tokens"]) for tensor in "xy"]
    graph = helper.make_graph(nodes, "made", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return SegmentPart(PlanSegment(name, f"{name}.onnx", ("x",), ("y",)), model)


GOOD = part(helper.make_node("Relu", ["x"], ["z"], "first"), helper.make_node("Neg", ["z"], ["y"], "second"))
DET = part(helper.make_node("Relu", ["x"], ["z"], "first"), helper.make_node("Det", ["z"], ["y"], "odd"))
CPU_INT8 = part(
    helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], "quantise"),
    helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "back"),
    name="fusion",
)
UNKNOWN = part(helper.make_node("NoSuchOp", ["x"], ["y"], "stranger"))


@pytest.mark.parametrize("asked", ["table", "parser"])
def test_every_guilty_node_is_named_with_an_alternative(asked: str, request: pytest.FixtureRequest) -> None:
    builder = request.getfixturevalue("builder") if asked == "parser" else None
    check_operators([GOOD], "rtx", builder, None)
    with pytest.raises(UnsupportedError) as caught:
        check_operators([GOOD, DET, CPU_INT8, UNKNOWN], "rtx", builder, None)
    head, *lines = str(caught.value).splitlines()
    assert head == "The target rtx cannot run all operators of the model:"
    assert [line.split(":")[0].strip() for line in lines] == [
        "segment text, node odd (Det)",
        "segment fusion, node quantise (DynamicQuantizeLinear)",
        "segment text, node stranger (NoSuchOp)",
    ]
    assert "use --target cpu" in lines[0]
    assert "compile from float32, where --precision int8" in lines[1]
    assert caught.value.exit_code == 1


def test_the_table_is_what_the_real_parser_says(builder: EngineBuilder) -> None:
    network = builder._network()
    parser = builder._trt.OnnxParser(network, builder._log)
    assert [name for name in sorted(SUPPORTED) if not parser.supports_operator(name)] == []
    assert not parser.supports_operator("Det")


def test_everything_that_is_exported_is_in_the_table(kernel_student) -> None:
    from psamf_edge.compile.export.precision import lower

    for precision in ("fp32", "fp16", "int8-weights"):
        for name, model in kernel_student.models.items():
            lowered = lower(model, name, precision, "tensorrt")
            check_operators([SegmentPart(PlanSegment(name, "x", (), ()), lowered)], "tensorrt", None, None)


def test_a_function_body_is_checked_and_a_plugin_is_not() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*INPUTS, "contexts")]
    node = helper.make_node(OP, INPUTS, ["contexts"], "cross", domain=DOMAIN)
    model = helper.make_model(
        helper.make_graph([node], "g", values[:-1], values[-1:]), opset_imports=[helper.make_opsetid("", 20)]
    )
    attach_body(model, 20)
    whole = SegmentPart(PlanSegment("fusion", "x", (), ()), model)
    assert "LayerNormalization" in {node.op_type for node in _nodes(model)}
    check_operators([whole], "tensorrt", None, None)
    model.functions[0].node[0].op_type = "Det"
    with pytest.raises(UnsupportedError, match=r"\(Det\)"):
        check_operators([whole], "tensorrt", None, None)
    del model.functions[:]
    with pytest.raises(UnsupportedError, match=r"node cross \(CrossModalAttention\)"):
        check_operators([whole], "rtx", None, None)


def test_a_node_inside_a_condition_is_found() -> None:
    inner = helper.make_graph(
        [helper.make_node("Det", ["x"], ["inside"], "deep")],
        "then", [], [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )  # fmt: skip
    condition = helper.make_node("If", ["x"], ["y"], "either", then_branch=inner, else_branch=inner)
    with pytest.raises(UnsupportedError, match=r"node deep \(Det\)"):
        check_operators([part(condition)], "rtx", None, None)


def test_onnxruntime_names_the_node_that_it_does_not_load() -> None:
    load(GOOD.model, "good")
    with pytest.raises(UnsupportedError, match=r"segment odd, node stranger \(NoSuchOp\): .*NoSuchOp.*; write it with"):
        load(UNKNOWN.model, "odd")
    fine = helper.make_node("BitShift", ["x", "x"], ["y"], "shift", direction="LEFT")  # not of float
    with pytest.raises(UnsupportedError, match=r"node shift \(BitShift\)"):
        load(part(fine).model, "odd")
    broken = part(helper.make_node("Relu", ["absent"], ["y"], ""))
    with pytest.raises(IntegrityError, match="absent"):  # no operator's fault
        load(broken.model, "broken")


def test_junk_is_no_model(builder: EngineBuilder) -> None:
    ((node, operator, reason),) = builder.unsupported(b"junk")
    assert (node, operator) == ("", "")
    assert "ONNX" in reason
