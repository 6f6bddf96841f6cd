"""What the whole model promises: masks, missing modalities, batches of one, gradients, weights on disk."""

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.compile.model import Student, StudentConfig
from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.model.student import load_student, save_student
from psamf_edge.errors import UsageError

CONFIG = StudentConfig(7, 9, BertConfig(vocabulary=60, width=32, heads=4, feed_forward=64, blocks=3, positions=40))
SUBSETS = torch.tensor(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.float32
)
# float32 sums in another order; scores are of size one
FLOAT32 = 1e-5


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    student = Student(CONFIG).eval()
    for parameter in student.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return student


def inputs(B=2, L=8, Ta=37, Tv=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 60, (B, L), generator=g), torch.ones(B, L),
        torch.randn(B, Ta, 7, generator=g), torch.ones(B, Ta),
        torch.randn(B, Tv, 9, generator=g), torch.ones(B, Tv),
        SUBSETS.expand(B, 7, 3),
    ]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("B", "L", "Ta", "Tv"), [(1, 1, 1, 1), (1, 2, 9, 1), (3, 40, 301, 33)])
def test_shapes(student, B, L, Ta, Tv):
    output = student(*inputs(B, L, Ta, Tv))
    assert output.score.shape == output.log_scale.shape == (B, 7)
    assert output.personality.shape == (B, 7, 32)
    assert output.audio_weights.shape == (B, 7, 2, -(-Ta // 8))
    assert torch.isfinite(output.score).all()


@torch.no_grad()
def test_padding_changes_nothing(student):
    short = inputs()
    padded = [x.clone() for x in short]
    for i, noise in ((0, 3), (2, 1e3), (4, -1e3)):  # what the padding holds must not matter
        extra = torch.full((2, 16, *short[i].shape[2:]), noise, dtype=short[i].dtype)
        padded[i] = torch.cat([short[i], extra], dim=1)
        padded[i + 1] = torch.cat([short[i + 1], torch.zeros(2, 16)], dim=1)
    assert torch.allclose(student(*short).score, student(*padded).score, atol=FLOAT32)


@torch.no_grad()
def test_a_missing_modality_does_not_matter(student):
    base, other = inputs(seed=1), inputs(seed=2)
    for position, modality in ((0, 0), (2, 1), (4, 2)):
        mixed = list(base)
        mixed[position] = other[position]
        same = torch.isclose(student(*base).score, student(*mixed).score, atol=FLOAT32).all(dim=0)
        for row, subset in enumerate(SUBSETS):
            assert bool(same[row]) == (subset[modality] == 0), f"subset {subset.tolist()}, modality {modality}"


@torch.no_grad()
def test_subsets_and_batch_do_not_mix(student):
    batch = inputs(B=3)
    together = student(*batch).score
    for b in range(3):
        for s in range(7):
            alone = [x[b : b + 1] for x in batch]
            alone[6] = alone[6][:, s : s + 1]
            assert torch.allclose(student(*alone).score[0, 0], together[b, s], atol=FLOAT32)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    student = Student(CONFIG)
    output = student(*inputs())
    (output.score.square().sum() + output.log_scale.square().sum()).backward()
    # what adds the same number to every score of a softmax cancels in it: its gradient is rounding alone, about 1e-9
    idle = {n for n, p in student.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7}
    assert idle == {
        n for n, _ in student.named_parameters() if n.endswith(("attention.key.bias", "pooling.energy.2.bias"))
    }


def test_weights_survive_the_disk(student, tmp_path):
    save_student(student, tmp_path, dtype=torch.float32)
    loaded = load_student(tmp_path)
    assert dataclasses.asdict(loaded.config) == dataclasses.asdict(student.config)
    with torch.no_grad():
        assert torch.equal(loaded(*inputs()).score, student(*inputs()).score)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="no student weights"):
        load_student(tmp_path)
