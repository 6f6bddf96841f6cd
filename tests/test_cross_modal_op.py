"""The cross-modal block as one operation, against the block's module, the float64 oracle and autograd's own check."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper

from psamf_edge.backends.sessions import open_session
from psamf_edge.compile.export.cross_modal_op import (
    DOMAIN,
    INPUTS,
    OP,
    VERSION,
    cross_modal_attention,
    function_body,
    packed_weights,
    reference,
    suits,
    valid_lengths,
)
from psamf_edge.compile.export.onnx_export import OPSET
from psamf_edge.compile.model.attention import CrossModalBlock
from psamf_edge.errors import UsageError
from psamf_edge.kernels.cross_modal_attention.reference import cross_modal_attention as oracle

LENGTHS = [(9, 5), (0, 5), (3, 0), (1, 1), (0, 0), (7, 4)]  # full, missing, one, odd


def exact_block(seed: int) -> CrossModalBlock:
    """A block in float64 whose folded weights are float32 numbers, so that packing them rounds nothing.

    Matrices are whole eighths, whose products and sums float32 holds; the query's carry the sqrt(32) that folding takes
    away again.
    """
    block = CrossModalBlock().double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in block.named_parameters():
            eighths = torch.randint(-8, 9, weight.shape, generator=generator).double() / 8
            weight.copy_(eighths * (math.sqrt(32) if name.startswith("attention.query") else 1.0))
    return block


def case(dtype: torch.dtype, batch: int = 1) -> tuple:
    torch.manual_seed(0)
    query, audio, face = (torch.randn(batch, size, 64).to(dtype) for size in (len(LENGTHS), 9, 5))
    return query, audio, face, torch.tensor([LENGTHS] * batch, dtype=torch.int32)


def test_float64_equals_the_module_and_the_oracle() -> None:
    blocks = exact_block(1), exact_block(2)
    weights = packed_weights(*blocks).double()
    query, audio, face, lengths = case(torch.float64, batch=2)
    contexts = cross_modal_attention(query, audio, face, lengths, weights)
    assert contexts.shape == (2, 2, len(LENGTHS), 64)
    for i, (block, steps) in enumerate(zip(blocks, (audio, face), strict=True)):
        valid = (torch.arange(steps.shape[1]) < lengths[:, :, i : i + 1]).double()  # (B, S, T)
        state = {name: value.detach().numpy() for name, value in block.state_dict().items()}
        with torch.no_grad():
            # float64 sums in another order, of scores up to some thousands
            torch.testing.assert_close(contexts[i], block(query, steps, valid)[0], rtol=0, atol=1e-11)
        for b in range(2):
            for s, pair in enumerate(LENGTHS):
                wanted = oracle(query[b, s].numpy(), steps[b, : pair[i]].numpy(), state)
                np.testing.assert_allclose(contexts[i, b, s].numpy(), wanted, rtol=0, atol=1e-11)


def test_what_lies_behind_the_length_changes_nothing() -> None:
    weights = packed_weights(CrossModalBlock(), CrossModalBlock())
    query, audio, face, lengths = case(torch.float32)
    lengths = lengths.clamp(max=4)
    before = cross_modal_attention(query, audio, face, lengths, weights)
    audio[:, 4:], face[:, 4:] = 1e3, -1e3
    torch.testing.assert_close(cross_modal_attention(query, audio, face, lengths, weights), before, rtol=0, atol=0)


def test_scores_too_large_for_a_float_sum_keep_their_greatest() -> None:
    weights = packed_weights(exact_block(1), exact_block(2)).float()
    query, audio, face, lengths = case(torch.float32)
    contexts = cross_modal_attention(query * 1e6, audio * 1e6, face, lengths, weights)
    assert torch.isfinite(contexts).all()


def test_gradients() -> None:
    """gradcheck compares with finite differences; its fast mode, along random directions, for the many weights."""
    weights = packed_weights(CrossModalBlock(), CrossModalBlock()).double()
    query, audio, face, lengths = case(torch.float64)
    given = [x.requires_grad_() for x in (query, audio, face)]

    def operation(query, audio, face, weights):
        return cross_modal_attention(query, audio, face, lengths, weights)

    assert torch.autograd.gradcheck(operation, (*given, weights.clone().requires_grad_()), fast_mode=True)
    one = torch.tensor([[[2, 0]]], dtype=torch.int32)
    small, two = torch.randn(1, 1, 64).double().requires_grad_(), audio[:, :2].detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda query, audio: cross_modal_attention(query, audio, face.detach(), one, weights), (small, two)
    )


def test_gradients_equal_those_of_the_reference() -> None:
    weights = packed_weights(CrossModalBlock(), CrossModalBlock())
    found = []
    for function in (cross_modal_attention, reference):
        query, audio, face, lengths = case(torch.float32)
        given = [query.requires_grad_(), face.requires_grad_(), weights.clone().requires_grad_()]  # not the voice
        function(given[0], audio, given[1], lengths, given[2]).square().sum().backward()
        found.append([x.grad for x in given])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_pytorch_accepts_the_registration() -> None:
    """opcheck: schema, no aliasing, shapes without data, and autograd, as export needs them."""
    weights = packed_weights(CrossModalBlock(), CrossModalBlock()).requires_grad_()
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")  # its fourth loads a compiler: 15 s
    torch.library.opcheck(cross_modal_attention, (*case(torch.float32), weights), test_utils=checks)


def test_half_is_float32_inside() -> None:
    weights = packed_weights(CrossModalBlock(), CrossModalBlock()).half()
    *floats, lengths = case(torch.float16)
    half = cross_modal_attention(*floats, lengths, weights)
    exact = cross_modal_attention(*(x.float() for x in floats), lengths, weights.float())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half, exact.half(), rtol=0, atol=0)


def test_lengths_are_the_masks_of_each_subset() -> None:
    audio, face = torch.tensor([[1.0, 1, 1, 0]]), torch.tensor([[1.0, 0]])
    present = torch.tensor([[[1.0, 1, 1], [1, 0, 1], [0, 1, 0], [1, 0, 0]]])
    lengths = valid_lengths(audio, face, present)
    assert lengths.dtype == torch.int32
    assert lengths.tolist() == [[[3, 1], [0, 1], [3, 0], [0, 0]]]


def test_only_the_kernels_size_can_be_packed() -> None:
    assert suits(64, 2)
    assert not suits(16, 2)
    assert not suits(64, 4)
    with pytest.raises(UsageError):
        packed_weights(CrossModalBlock(16), CrossModalBlock(16))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_the_body_in_onnxruntime(kind: int) -> None:
    dtype = torch.float32 if kind == TensorProto.FLOAT else torch.float16
    weights = packed_weights(CrossModalBlock(), CrossModalBlock()).to(dtype)
    inputs = dict(zip(INPUTS, case(dtype, batch=2), strict=False))
    shapes = {"query": ["B", "S", 64], "audio": ["B", "Ta", 64], "face": ["B", "Tv", 64], "lengths": ["B", "S", 2]}
    graph = helper.make_graph(
        [helper.make_node(OP, INPUTS, ["contexts"], domain=DOMAIN)],
        "one",
        [
            helper.make_tensor_value_info(name, TensorProto.INT32 if name == "lengths" else kind, shape)
            for name, shape in shapes.items()
        ],
        [helper.make_tensor_value_info("contexts", kind, [2, "B", "S", 64])],
        [numpy_helper.from_array(weights.numpy(), "weights")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function_body(OPSET)])
    onnx.checker.check_model(model, full_check=True)
    (ours,) = open_session(model.SerializeToString(), "one").run(
        ["contexts"], {k: v.numpy() for k, v in inputs.items()}
    )
    wanted = reference(*inputs.values(), weights).numpy()
    assert ours.dtype == wanted.dtype
    # float32 sums in another order, of values about one; in float16 one such sum may round to the next number
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=5e-6 if kind == TensorProto.FLOAT else 2e-3)
