"""Cutting graphs at kernel nodes: graphs of every form give the same numbers cut and whole, or are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper, parser

from psamf_edge.backends.sessions import open_session
from psamf_edge.compile.export import ExportError
from psamf_edge.compile.export.cross_modal_op import attach_body, packed_weights
from psamf_edge.compile.export.onnx_export import OPSET
from psamf_edge.compile.export.partition import KernelPart, SegmentPart, has_kernel_nodes, partition
from psamf_edge.compile.export.parts import PartsRunner
from psamf_edge.compile.model.attention import CrossModalBlock

AXES = ("S", "Ta", "Tv")
NODE = "psamf.CrossModalAttention"
ONE = f"""
    q = Relu (query0)
    c = {NODE} (q, audio, face, lengths0, w0)
    heard, seen = Split <axis = 0, num_outputs = 2> (c)
    both = Concat <axis = 3> (heard, seen)
    out = Sigmoid (both)
"""
TWO_IN_A_ROW = f"""
    q = Relu (query0)
    c = {NODE} (q, audio, face, lengths0, w0)
    axis0 = Constant <value_ints = [0]> ()
    mean = ReduceMean <keepdims = 0> (c, axis0)
    q2 = Add (mean, q)
    c2 = {NODE} (q2, audio, face, lengths0, w1)
    sum = Add (c, c2)
    out = Tanh (sum)
"""
SIDE_BY_SIDE = f"""
    q = Relu (query0)
    c = {NODE} (q, audio, face, lengths0, w0)
    c2 = {NODE} (query0, audio, face, lengths0, w1)
    out = Sub (c, c2)
"""
# a shape that is used on both sides, an axis that only the voice has, and a whole shape of a tensor left behind
SHAPES = f"""
    q = Relu (query0)
    shape = Shape (q)
    zeros = ConstantOfShape (shape)
    q1 = Add (q, zeros)
    c = {NODE} (q1, audio, face, lengths0, w0)
    axis0 = Constant <value_ints = [0]> ()
    two = Constant <value_ints = [2]> ()
    wide = Concat <axis = 0> (two, shape)
    again = Reshape (c, wide)
    steps = Shape <start = 1, end = 2> (audio)
    voiced = Expand (again, wide)
    float_steps = Cast <to = 1> (steps)
    left = Shape (q)
    ones = ConstantOfShape <value = float[1] {{1.0}}> (left)
    scaled = Mul (voiced, float_steps)
    out = Add (scaled, ones)
"""
FORMS = {
    "one": (ONE, ("a", "b"), 1),
    "in a row": (TWO_IN_A_ROW, ("a", "b", "c"), 2),
    "side by side": (SIDE_BY_SIDE, ("a", "b"), 2),
    "shapes": (SHAPES, ("a", "b"), 1),
}


@pytest.fixture(scope="module")
def weights() -> list[np.ndarray]:
    torch.manual_seed(0)
    return [packed_weights(CrossModalBlock(), CrossModalBlock()).numpy() for _ in range(2)]


def graph_of(body: str, weights: list[np.ndarray], out: str = "2, 1, S, 64") -> onnx.ModelProto:
    """A model of standard inputs around nodes in ONNX's own text form, with the function's body."""
    graph = parser.parse_graph(
        f"""g (float[1, S, 64] query0, float[1, Ta, 64] audio, float[1, Tv, 64] face, int32[1, S, 2] lengths0)
            => (float[{out}] out) {{ {body} }}"""
    )
    graph.initializer.extend(numpy_helper.from_array(value, f"w{i}") for i, value in enumerate(weights))
    for number, node in enumerate(graph.node):
        node.name = f"node{number}"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    attach_body(model, OPSET)
    return model


def inputs(S: int, Ta: int, Tv: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(S)
    arrays = {"query0": (1, S, 64), "audio": (1, Ta, 64), "face": (1, Tv, 64)}
    lengths = np.stack([rng.integers(0, most + 1, (1, S)) for most in (Ta, Tv)], axis=2).astype(np.int32)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in arrays.items()} | {"lengths0": lengths}


@pytest.mark.parametrize("form", FORMS)
def test_cut_and_whole_give_the_same(weights, form: str) -> None:
    body, names, kernels = FORMS[form]
    model = graph_of(body, weights, "1, 1, S, 128" if form == "one" else "2, 1, S, 64")
    before = model.SerializeToString()
    parts = partition(model, names, AXES)
    assert model.SerializeToString() == before  # the source is not touched
    assert [part.plan.name for part in parts if isinstance(part, SegmentPart)] == list(names)
    assert sum(isinstance(part, KernelPart) for part in parts) == kernels
    assert len({part.plan.name for part in parts}) == len(parts)
    whole, cut = open_session(model.SerializeToString(), "whole"), PartsRunner(parts, ["out"])
    for sizes in ((1, 1, 1), (3, 7, 2), (4, 64, 33)):
        given = inputs(*sizes)
        # float32 sums in another order: the function's body and PyTorch's form of the operation
        np.testing.assert_allclose(cut.run(given)[0], whole.run(["out"], given)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_only_numbers_cross_and_every_axis_has_its_name(weights, form: str) -> None:
    body, names, _ = FORMS[form]
    model = graph_of(body, weights, "1, 1, S, 128" if form == "one" else "2, 1, S, 64")
    known = {value.name for value in model.graph.input}
    for part in partition(model, names, AXES):
        assert set(part.plan.inputs) <= known
        known |= set(part.plan.outputs)
        for value in (*part.model.graph.input, *part.model.graph.output) if isinstance(part, SegmentPart) else ():
            assert value.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.INT32)
            dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            assert all(dim in AXES or isinstance(dim, int) for dim in dims)
        if isinstance(part, SegmentPart):
            assert not has_kernel_nodes(part.model)
            assert not part.model.functions


def test_shapes_are_measured_on_what_the_segment_reads_anyway(weights) -> None:
    first, kernel, last = partition(graph_of(SHAPES, weights), ("a", "b"), AXES)
    assert kernel.plan.inputs == ("query", "audio", "face", "lengths0")  # inputs of the whole keep their names
    assert last.plan.inputs == ("audio", "contexts")  # neither q nor its shape: S is an axis of contexts too
    assert first.plan.inputs == ("query0",)
    assert first.plan.outputs == ("query",)


def test_several_kernels_have_names_of_their_own(weights) -> None:
    parts = partition(graph_of(TWO_IN_A_ROW, weights), ("a", "b", "c"), AXES)
    first, second = (part for part in parts if isinstance(part, KernelPart))
    assert [first.plan.name, second.plan.name] == ["cross_modal_attention_1", "cross_modal_attention_2"]
    assert [first.plan.weights, second.plan.weights] == ["cross_modal_attention_1.npy", "cross_modal_attention_2.npy"]
    assert (first.plan.outputs, second.plan.outputs) == (("contexts",), ("contexts_2",))
    assert (first.plan.inputs[0], second.plan.inputs[0]) == ("query", "query_2")
    np.testing.assert_array_equal(first.weights, weights[0])
    np.testing.assert_array_equal(second.weights, weights[1])


@pytest.mark.parametrize(
    ("body", "names", "message"),
    [
        ("out = Concat <axis = 0> (query0, query0)", ("a", "b"), "falls into 1 segments around 0 kernel nodes"),
        (ONE.replace("3>", "0>"), ("a", "b", "c"), "falls into 2 segments around 1 kernel nodes"),
        (
            f"w = Neg (w0) q = Relu (query0) c = {NODE} (q, audio, face, lengths0, w) out = Tanh (c)",
            ("a", "b"),
            "node2: its weights are computed by the graph",
        ),
        (
            f"q = Relu (query0) c = {NODE} (q, w1, face, lengths0, w0) out = Tanh (c)",
            ("a", "b"),
            "w1 is a constant; only its weights may be one",
        ),
        (
            f"""q = Relu (query0) c = {NODE} (q, audio, face, lengths0, w0)
                wide = Cast <to = 7> (lengths0) plenty = Greater (wide, wide) steps = Cast <to = 7> (q)
                q1 = Cast <to = 1> (steps) c2 = {NODE} (q1, audio, face, lengths0, w1) some = Cast <to = 1> (steps)
                sum = Add (c, c2) out = Add (sum, some)""",
            ("a", "b"),
            r"steps \(int64\) is computed from data",
        ),
        (
            f"""q = Relu (query0) c = {NODE} (q, audio, face, lengths0, w0) yes = Constant <value = bool {{1}}> ()
                out = If (yes) <then_branch = g1 () => (float[N] t) {{ t = Identity (c) }},
                else_branch = g2 () => (float[N] e) {{ e = Neg (c) }}>""",
            ("a", "b"),
            r"\(If\) holds a graph of its own",
        ),
    ],
)
def test_what_cannot_be_cut_is_named(weights, body: str, names: tuple, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        partition(graph_of(body, weights), names, AXES)


def test_an_axis_without_a_name_is_refused(weights) -> None:
    """A product of axes has no name, and no engine could be given its range."""
    body = f"""
        lowest = Constant <value_ints = [1, -1, 64]> ()
        joined = Concat <axis = 1> (query0, audio)
        q = Reshape (joined, lowest)
        c = {NODE} (q, audio, face, lengths0, w0)
        out = Tanh (c)
    """
    with pytest.raises(ExportError, match=r"cut at query: its shape .* axes other than S, Ta, Tv"):
        partition(graph_of(body, weights), ("a", "b"), AXES)
