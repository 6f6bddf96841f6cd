"""The teacher's losses against formulas written here in float64 NumPy from the paper's text (arXiv 2512.01442)."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.compile.model.alignment import (
    Alignment,
    ContrastiveProjection,
    Pair,
    PersonalityAlignment,
    contrast_share,
    contrastive_loss,
    total_loss,
)
from psamf_edge.compile.model.teacher import TeacherConfig

# float64 on both sides, a few hundred operations deep: rounding leaves about 1e-14
EXACT = 1e-12
FORMS = ("clip", "released")
SCALE = {"clip": 1 / 0.07, "released": np.log(1 / 0.07)}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def double(x):
    return torch.from_numpy(np.asarray(x, np.float64))


def unit(x):
    return x / np.sqrt((x**2).sum(axis=1, keepdims=True))


def clip_samples(x, y, scale):
    """Clip(x, y) of projected sides, sample by sample (B,), in plain sums of exponentials."""
    logits = scale * x @ y.T
    matched = np.exp(np.diag(logits))
    rows, columns = np.exp(logits).sum(axis=1), np.exp(logits).sum(axis=0)
    return -(np.log(matched / rows) + np.log(matched / columns)) / 2


def distances(u, q):
    return (1 - (unit(u) * unit(q)).sum(axis=1)) / 2


@pytest.mark.parametrize("form", FORMS)
def test_projection(form):
    project = ContrastiveProjection(12, 20, form).double()
    x, y = draw(6, 12), draw(6, 20)
    (Wx, bx), (Wy, by) = ((p.weight.detach().numpy(), p.bias.detach().numpy()) for p in (project.x, project.y))
    pair = project(double(x), double(y))
    assert np.allclose(pair.x.detach(), unit(x @ Wx.T + bx), atol=EXACT)
    expected = unit(y @ Wy.T + by) if form == "clip" else unit(y) @ Wy.T + by
    assert np.allclose(pair.y.detach(), expected, atol=EXACT)
    assert pair.x.shape == pair.y.shape == (6, 128)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("B", [1, 2, 7])
def test_contrastive_loss(form, B):
    x, y = unit(draw(B, 128)), unit(draw(B, 128, seed=1))
    loss = contrastive_loss(Pair(double(x), double(y)), form, torch.ones(B, dtype=torch.float64))
    assert np.allclose(loss, clip_samples(x, y, SCALE[form]), atol=EXACT)
    if B == 1:
        assert loss.item() == 0.0


def test_contrastive_loss_is_that_of_clip():
    modeling = pytest.importorskip("transformers.models.clip.modeling_clip", reason="transformers is not installed")
    theirs = getattr(modeling, "image_text_contrastive_loss", None) or getattr(modeling, "clip_loss", None)
    if theirs is None:
        pytest.skip("this version of transformers has no CLIP loss of its own")
    x, y = double(unit(draw(9, 128))), double(unit(draw(9, 128, seed=1)))
    ours = contrastive_loss(Pair(x, y), "clip", torch.ones(9, dtype=torch.float64)).mean()
    assert torch.allclose(ours, theirs(x @ y.T / 0.07), atol=EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_samples_that_lack_a_side_are_not_in_the_batch(form):
    x, y = draw(6, 128), draw(6, 128, seed=1)
    x, y = unit(x), unit(y)
    valid = np.array([1.0, 0, 1, 1, 0, 1])
    kept = valid > 0
    loss = contrastive_loss(Pair(double(x), double(y)), form, double(valid)).numpy()
    assert np.allclose(loss[kept], clip_samples(x[kept], y[kept], SCALE[form]), atol=EXACT)
    assert not loss[~kept].any()


@pytest.mark.parametrize("similarity", ["sample", "batch"])
@pytest.mark.parametrize("weight", ["distance", "similarity"])
def test_share(similarity, weight):
    u, q, valid = draw(5, 8), draw(5, 8, seed=1), np.array([1.0, 1, 0, 1, 1])
    D = distances(u, q)
    if similarity == "batch":
        D = np.full(5, D[valid > 0].mean())
    share = contrast_share(double(u), double(q), double(valid), similarity, weight)
    assert np.allclose(share, D if weight == "distance" else 1 - D, atol=EXACT)


def test_alignment_projects_text_and_personality():
    module = PersonalityAlignment(12, 20, 8, "clip", scored=True).double()
    cls, p = draw(4, 12), draw(4, 20)

    def apply(linear, x):
        return x @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()

    out = module(double(cls), double(p))
    assert np.allclose(out.u.detach(), apply(module.sentiment, cls), atol=EXACT)
    assert np.allclose(out.q.detach(), apply(module.personality, p), atol=EXACT)
    assert np.allclose(out.r.detach(), apply(module.scored, cls), atol=EXACT)
    assert np.allclose(out.score.detach(), apply(module.score, apply(module.scored, cls))[:, 0], atol=EXACT)


def made_output(B, present):
    """A teacher's output of random numbers, and the same numbers as NumPy arrays by name."""
    n = {name: draw(B, 64, seed=i) for i, name in enumerate(("u", "q"))}
    n |= {name: unit(draw(B, 128, seed=i)) for i, name in enumerate(("cu", "cq", "sa", "a", "sv", "v"))}
    n |= {name: draw(B, seed=i) for i, name in enumerate(("score", "aligned", "labels"))}
    t = {name: double(value) for name, value in n.items()}
    alignment = Alignment(t["u"], t["q"], Pair(t["cu"], t["cq"]), t["u"], t["aligned"])
    contrasts = (Pair(t["sa"], t["a"]), Pair(t["sv"], t["v"]))
    output = SimpleNamespace(score=t["score"], present=double(present), alignment=alignment, contrasts=contrasts)
    return output, n


@pytest.mark.parametrize("preset", [TeacherConfig.drawn, TeacherConfig.released])
@pytest.mark.parametrize("weight", ["distance", "similarity"])
@pytest.mark.parametrize("B", [1, 6])
def test_total(preset, weight, B):
    config = preset(5, 20, alignment_weight=weight)
    present = np.ones((B, 3))
    present[3:, 1] = 0  # some without a voice,
    present[4:5, 0] = 0  # and one of them without words
    output, n = made_output(B, present)
    loss, terms = total_loss(output, double(n["labels"]), config)

    text, voice, face = (present[:, i] > 0 for i in range(3))
    D = distances(n["u"], n["q"])[text]
    if preset == TeacherConfig.released:
        D = D.mean()
    share = D if weight == "distance" else 1 - D
    scale = SCALE[config.clip]
    expected = {
        "l1": np.abs(n["score"] - n["labels"]).mean(),
        "ccl": (share * clip_samples(n["cu"][text], n["cq"][text], scale)).mean(),
        "ps": ((1 - share) * np.abs(n["aligned"] - n["labels"])[text]).mean(),
        "clm": clip_samples(n["sa"][text & voice], n["a"][text & voice], scale).mean()
        + clip_samples(n["sv"][text & face], n["v"][text & face], scale).mean(),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, abs=EXACT), name
    assert loss.item() == pytest.approx(
        expected["l1"] + expected["ccl"] + 0.1 * expected["ps"] + 0.09 * expected["clm"], abs=EXACT
    )


def test_a_batch_without_words_has_the_score_term_alone():
    output, n = made_output(3, np.tile([0.0, 1, 1], (3, 1)))
    loss, terms = total_loss(output, double(n["labels"]), TeacherConfig.drawn(5, 20))
    assert loss == terms["l1"]
    assert terms["ccl"] == terms["ps"] == terms["clm"] == 0.0


def test_terms_that_were_taken_away():
    config = TeacherConfig.drawn(5, 20)
    output, n = made_output(4, np.ones((4, 3)))
    labels = double(n["labels"])
    full, terms = total_loss(output, labels, config)
    output.contrasts = None
    without, rest = total_loss(output, labels, dataclasses.replace(config, l_clm=0.0))
    assert "clm" not in rest
    assert (full - without).item() == pytest.approx(0.09 * terms["clm"].item(), abs=EXACT)
    output.alignment = output.alignment._replace(r=None, score=None)
    without_both, rest = total_loss(output, labels, dataclasses.replace(config, l_clm=0.0, l_ps=0.0))
    assert set(rest) == {"l1", "ccl"}
    assert (without - without_both).item() == pytest.approx(0.1 * terms["ps"].item(), abs=EXACT)
