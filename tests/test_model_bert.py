"""The trunk against transformers' BertModel and MPNetModel, the pre-fusion block against the former's last block."""

import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from psamf_edge.compile.model import Student
from psamf_edge.compile.model.bert import Trunk
from psamf_edge.compile.model.pretrained import load_encoder
from psamf_edge.errors import UsageError

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


# --- MPNet: relative positions, and word pieces under other numbers

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"piece{i}" for i in range(80))]  # in BERT's order
MPNET_PIECES = ["<s>", "<pad>", "</s>", "<unk>", *PIECES, "<mask>"]


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory):
    """A small random MPNet saved by transformers, with its vocabulary."""
    folder = tmp_path_factory.mktemp("mpnet")
    config = transformers.MPNetConfig(
        vocab_size=len(MPNET_PIECES), hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=202,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.MPNetModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(MPNET_PIECES) + "\n")
    return model, folder


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 17, 150])  # 150: distances beyond the last bucket
def test_trunk_equals_mpnet(mpnet, length):
    model, folder = mpnet
    pretrained = load_encoder(folder)
    trunk = Trunk(pretrained.config, 3, dropout=0.0).eval()
    trunk.load(pretrained)
    pieces = [[2, *torch.randint(5, 85, (length - 1,)).tolist()] for _ in range(2)]  # BERT's ids, [CLS] first
    theirs = {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>"}
    names = [[theirs.get(PIECES[i], PIECES[i]) for i in row] for row in pieces]
    mask = torch.ones(2, length)
    mask[1, 1 + length // 2 :] = 0.0
    padded = [[MPNET_PIECES.index(n) if m else 1 for n, m in zip(row, own, strict=True)]
              for row, own in zip(names, mask.tolist(), strict=True)]  # fmt: skip
    hidden = trunk(torch.tensor(pieces), mask)
    expected = model(torch.tensor(padded), mask.long()).last_hidden_state
    assert torch.allclose(hidden[mask.bool()], expected[mask.bool()], atol=FLOAT32)


def test_tokens_that_stand_nowhere_have_no_distance(mpnet):
    pretrained = load_encoder(mpnet[1])
    trunk = Trunk(pretrained.config, 3, dropout=0.0)
    trunk.load(pretrained)
    bias = trunk.bias(torch.ones(1, 7), others=2)
    assert bias.shape == (1, 4, 7, 7)
    assert torch.equal(bias[:, :, :5, :5], trunk.relative(5))
    assert not bias[:, :, 5:].any()
    assert not bias[:, :, :, 5:].any()


def test_a_student_begins_with_no_mpnet(mpnet):
    with pytest.raises(UsageError, match="train a teacher with that encoder, and distil"):
        Student.from_bert(mpnet[1], audio_features=5, face_features=6)


def test_an_mpnet_without_its_vocabulary(mpnet, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((mpnet[1] / name).read_bytes())
    with pytest.raises(UsageError, match=r"lacks vocab\.txt"):
        load_encoder(tmp_path)
