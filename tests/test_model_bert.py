"""The trunk and the pre-fusion block against transformers' BertModel with the same random weights."""

import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from psamf_edge.compile.model import Student

# the same sums in another order, in float32, six blocks deep; hidden states are of size one
FLOAT32 = 2e-5


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A small random BERT saved by transformers, and a student made from it."""
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=90, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    bert = transformers.BertModel(config).eval()
    for parameter in bert.parameters():  # biases of zero and norms of one would hide mistakes
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    bert.save_pretrained(folder)
    return bert, Student.from_bert(folder, audio_features=5, face_features=6).eval()


@torch.no_grad()
def test_trunk_equals_bert(pair):
    bert, student = pair
    ids, mask = torch.randint(0, 90, (3, 17)), torch.ones(3, 17)
    mask[1, 9:] = 0.0
    hidden = student.trunk(ids, mask)
    expected = bert(ids, mask.long(), output_hidden_states=True).hidden_states[2]
    assert torch.allclose(hidden[mask.bool()], expected[mask.bool()], atol=FLOAT32)


@torch.no_grad()
def test_pre_fusion_with_text_alone_is_the_last_block_of_bert(pair):
    bert, student = pair
    ids, mask = torch.randint(0, 90, (2, 11)), torch.ones(2, 11)
    mask[0, 4:] = 0.0
    summary = torch.randn(2, 64)
    z, _ = student.fusion.pre_fusion(
        student.trunk(ids, mask), mask, summary, summary, torch.tensor([[[1.0, 0, 0]]] * 2)
    )
    expected = bert(ids, mask.long()).last_hidden_state[:, 0]
    assert torch.allclose(z[:, 0], expected, atol=FLOAT32)
