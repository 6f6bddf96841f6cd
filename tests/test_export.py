"""Export, quantisation and half precision, each against the float32 model it was made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from psamf_edge.backends.sessions import open_session
from psamf_edge.compile.export import ExportError
from psamf_edge.compile.export.half import to_half
from psamf_edge.compile.export.images import CHANNEL_BLOCK, convolve_images
from psamf_edge.compile.export.onnx_export import (
    LEAST_COSINE,
    check_axes,
    check_limits,
    check_parity,
    random_inputs,
    reference,
)
from psamf_edge.compile.export.precision import INT8_SEGMENTS, lower
from psamf_edge.compile.export.quantise import quantise

NAMES = ["text", "audio", "face", "fusion"]


@pytest.fixture
def pair(tiny_export, request: pytest.FixtureRequest):
    """The segment and the float32 model of the name that the test is parametrised with."""
    name = request.getfixturevalue("name")
    segment = next(segment for segment in tiny_export.segments if segment.plan.name == name)
    return segment, tiny_export.models[name]


@pytest.mark.parametrize("name", NAMES)
def test_float32_equals_pytorch_at_odd_sizes(pair, name: str) -> None:
    segment, model = pair
    session = open_session(model.SerializeToString(), name)
    for seed, size in enumerate((1, 2, 5, 17, 64)):
        inputs = random_inputs(segment, {axis: min(size, most) for axis, (_, _, most) in segment.ranges.items()}, seed)
        for ours, theirs in zip(
            session.run(list(segment.plan.outputs), inputs), reference(segment, inputs), strict=True
        ):
            # float32 sums in another order; the last layers are normalised, so values are about one
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_precision_stays_within_its_limit(pair, name: str, precision: str) -> None:
    segment, model = pair
    parities = check_parity(lower(model, name, precision), segment)
    check_limits(parities, precision)
    assert [parity.output for parity in parities] == list(segment.plan.outputs)


@pytest.mark.parametrize("name", ["text", "audio", "face"])
def test_padding_does_not_change_a_score(pair, name: str) -> None:
    """A longer input whose end is masked gives what the short input gives: the masks are real after export."""
    segment, model = pair
    session = open_session(model.SerializeToString(), name)
    _, mask = segment.plan.inputs
    short = random_inputs(segment, dict.fromkeys(segment.ranges, 16), seed=0)
    short[mask][:] = 1.0
    padded = {key: np.concatenate([value, value[:, ::-1][:, :8]], axis=1) for key, value in short.items()}
    padded[mask][:, 16:] = 0.0
    last = -1 if name != "text" else 0  # the summary, or the hidden states of the real tokens
    names = list(segment.plan.outputs)
    ours, theirs = session.run(names, padded)[last], session.run(names, short)[last]
    np.testing.assert_allclose(ours[:, :16] if name == "text" else ours, theirs, atol=1e-5)


def test_a_frozen_axis_is_found(tiny_export) -> None:
    segment = tiny_export.segments[0]
    model = onnx.ModelProto()
    model.CopyFrom(tiny_export.models["text"])
    dim = model.graph.input[0].type.tensor_type.shape.dim[1]
    dim.Clear()
    dim.dim_value = 7
    with pytest.raises(ExportError, match="was exported with inputs"):
        check_axes(model, segment)
    with pytest.raises(ExportError, match="does not run"):
        check_parity(model, segment)


def test_wrong_numbers_are_found(tiny_export) -> None:
    segment = tiny_export.segments[0]
    model = onnx.ModelProto()
    model.CopyFrom(tiny_export.models["text"])
    weight = next(w for w in model.graph.initializer if list(w.dims) == [32, 64])
    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros((32, 64), np.float32), weight.name))
    parities = check_parity(model, segment)
    with pytest.raises(ExportError, match=r"hidden.*cosine"):
        check_limits(parities, "fp32")
    check_limits([replace(parities[0], cosine=LEAST_COSINE["int8"])], "int8")


def test_int8_weights_are_signed_and_by_channel(tiny_export) -> None:
    model = quantise(tiny_export.models["text"])
    weights = {w.name: w for w in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert len(products) == 6  # query, key, value, out, up, down of one block
    for node in products:
        weight, zero = weights[node.input[1]], weights[node.input[3]]
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(zero.dims) == [weight.dims[1]]  # one for each output channel
        assert not onnx.numpy_helper.to_array(zero).any()  # symmetric
    # attention's two products have no constant side and stay float, as do the norms and the softmax
    kinds = [node.op_type for node in model.graph.node]
    assert (kinds.count("MatMul"), kinds.count("LayerNormalization"), kinds.count("Softmax")) == (2, 3, 1)
    table = max((w for w in weights.values() if "token" in w.name), key=lambda w: len(w.raw_data))
    assert table.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def test_int8_touches_only_segments_that_gain(tiny_export) -> None:
    for name in set(NAMES) - set(INT8_SEGMENTS):
        assert lower(tiny_export.models[name], name, "int8") == lower(tiny_export.models[name], name, "fp32")


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_become_images_with_the_same_numbers(pair, name: str) -> None:
    segment, model = pair
    before = model.SerializeToString()
    images = convolve_images(model)
    assert model.SerializeToString() == before  # the source is not touched
    if name in INT8_SEGMENTS:  # no convolution there runs over steps
        assert images == model
        return
    weights = {weight.name: weight for weight in images.graph.initializer}
    kernels = [weights[node.input[1]].dims for node in images.graph.node if node.op_type == "Conv"]
    assert len(kernels) == sum(node.op_type == "Conv" for node in model.graph.node)
    assert all(channels % CHANNEL_BLOCK == 0 and height == 1 for _, channels, height, _ in kernels)
    sessions = [open_session(each.SerializeToString(), name) for each in (images, model)]
    names = list(segment.plan.outputs)
    for size in (1, 2, 17):
        inputs = random_inputs(segment, dict.fromkeys(segment.ranges, size), seed=size)
        for ours, theirs in zip(*(session.run(names, inputs) for session in sessions), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)  # sums in another order, of normalised values


@pytest.mark.parametrize("name", NAMES)
def test_half_keeps_types_at_the_border_and_statistics_in_float32(pair, name: str) -> None:
    _, model = pair
    before = model.SerializeToString()
    half = to_half(model)
    assert model.SerializeToString() == before  # the source is not touched
    for side in ("input", "output"):
        ours, theirs = getattr(half.graph, side), getattr(model.graph, side)
        assert [value.name for value in ours] == [value.name for value in theirs]
        assert all(value.type == other.type for value, other in zip(ours, theirs, strict=True))
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True, check_type=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*inferred.input, *inferred.output, *inferred.value_info]}
    types |= {w.name: w.data_type for w in half.graph.initializer}
    for node in half.graph.node:
        kinds = {types[tensor] for tensor in (*node.input, *node.output) if tensor} & {1, 10}
        if node.op_type != "Cast":
            assert len(kinds) <= 1, f"{node.name} mixes float32 and float16"  # a strongly typed network refuses that
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert kinds == {1}
        if node.op_type in ("MatMul", "Conv", "Gemm"):
            assert kinds == {10}
