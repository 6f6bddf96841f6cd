"""Folded attention against the textbook: torch's MultiheadAttention, and the float64 oracle of kernels/."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.compile.model.attention import MASKED, CrossModalBlock, FoldedAttention
from psamf_edge.kernels.cross_modal_attention.reference import cross_modal_attention

# float64 on both sides, a few hundred operations deep: rounding leaves about 1e-14
EXACT = 1e-12


def textbook(attention: FoldedAttention, query, memory, bias):
    """The same weights in torch's own module, which forms keys and values."""
    D, h = query.shape[2], attention.heads
    oracle = torch.nn.MultiheadAttention(D, h, batch_first=True).double()
    parts = (attention.query, attention.key, attention.value)
    oracle.in_proj_weight.data = torch.cat([p.weight for p in parts]).detach()
    oracle.in_proj_bias.data = torch.cat([p.bias for p in parts]).detach()
    oracle.out_proj.load_state_dict(attention.out.state_dict())
    mask = bias.repeat_interleave(h, dim=0)  # (B * h, S, T)
    return oracle(query, memory, memory, attn_mask=mask, average_attn_weights=False)


@pytest.mark.parametrize(("S", "T"), [(1, 1), (1, 500), (3, 17), (4, 64)])
def test_folding_changes_nothing(S, T):
    torch.manual_seed(S * T)
    attention = FoldedAttention(48, 4).double()
    query, memory = torch.randn(2, S, 48).double(), torch.randn(2, T, 48).double()
    bias = torch.zeros(2, S, T).double()
    bias[:, :, T // 2 + 1 :] = MASKED
    ours, weights = attention(query, memory, bias)
    theirs, their_weights = textbook(attention, query, memory, bias)
    assert torch.allclose(ours, theirs, atol=EXACT)
    assert torch.allclose(weights, their_weights.transpose(1, 2), atol=EXACT)


def test_own_memory_is_memory_that_one_query_sees():
    torch.manual_seed(0)
    attention = FoldedAttention(32, 4).double()
    query, memory, own = (
        torch.randn(1, 3, 32).double(),
        torch.randn(1, 9, 32).double(),
        torch.randn(1, 3, 2, 32).double(),
    )
    ours, _ = attention(query, memory, torch.zeros(1, 3, 9), own, torch.zeros(1, 3, 2))
    for s in range(3):
        joined = torch.cat([memory, own[:, s]], dim=1)
        alone, _ = attention(query[:, s : s + 1], joined, torch.zeros(1, 1, 11))
        assert torch.allclose(ours[:, s : s + 1], alone, atol=EXACT)


@pytest.mark.parametrize("T", [0, 1, 2, 31, 32, 33, 500])
def test_block_equals_the_oracle(T):
    torch.manual_seed(T)
    block = CrossModalBlock().double().eval()
    query, memory = torch.randn(1, 1, 64).double(), torch.randn(1, T + 5, 64).double()
    valid = torch.zeros(1, 1, T + 5).double()
    valid[..., :T] = 1.0
    out, _ = block(query, memory, valid)
    weights = {name: value.numpy() for name, value in block.state_dict().items()}
    expected = cross_modal_attention(query[0, 0].numpy(), memory[0, :T].numpy(), weights)
    assert np.allclose(out[0, 0].detach().numpy(), expected, atol=EXACT)


def test_attention_mass_lies_on_real_steps():
    """The release attends to padding as well; here a step that is not valid gets nothing, to the last bit."""
    block = CrossModalBlock().eval()
    valid = torch.zeros(1, 1, 500)
    valid[..., :40] = 1.0
    _, weights = block(torch.randn(1, 1, 64), torch.randn(1, 500, 64), valid)
    assert weights[..., 40:].abs().max() == 0.0
    assert torch.allclose(weights[..., :40].sum(-1), torch.ones(1, 1, 2), atol=1e-6)


def test_extreme_values_stay_finite():
    block = CrossModalBlock().eval()
    out, _ = block(torch.full((1, 1, 64), 1e4), torch.full((1, 8, 64), -1e4), torch.ones(1, 1, 8))
    assert torch.isfinite(out).all()
