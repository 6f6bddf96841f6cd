"""PSA-MF against its equations, its table of differences and its promises (arXiv 2512.01442)."""

import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.compile.model.alignment import total_loss
from psamf_edge.compile.model.attention import CrossModalAttention, CrossModalBlock
from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.model.pretrained import find_encoder
from psamf_edge.compile.model.recurrence import RecurrentEncoder
from psamf_edge.compile.model.teacher import Teacher, TeacherConfig, load_teacher, save_teacher
from psamf_edge.errors import UsageError

BERT = BertConfig(vocabulary=60, width=32, heads=4, feed_forward=64, blocks=4, positions=40)
PRESETS = {"drawn": TeacherConfig.drawn, "released": TeacherConfig.released}
ABLATIONS = {
    "full": {}, "no personality": {"personality": False}, "no L_ps": {"l_ps": 0.0}, "no L_clm": {"l_clm": 0.0},
    "no pre-fusion": {"pre_fusion": False}, "no enhanced fusion": {"enhanced_fusion": False},
}  # fmt: skip
# float64 on both sides, a few hundred operations deep: rounding leaves about 1e-14
EXACT = 1e-11
# the same sums in another order, in float32; values are of size one
FLOAT32 = 2e-5


def make(preset="drawn", **options):
    """A small teacher in evaluation mode, no weight of which is zero or one: those would hide mistakes."""
    torch.manual_seed(0)
    teacher = Teacher(PRESETS[preset](5, 7, **{"bert": BERT, **options})).eval()
    for parameter in teacher.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return teacher


def inputs(B=3, L=8, Ta=21, Tv=9, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 60, (B, L), generator=g), torch.ones(B, L),
        torch.randn(B, Ta, 5, generator=g), torch.ones(B, Ta),
        torch.randn(B, Tv, 7, generator=g), torch.ones(B, Tv),
        torch.randn(B, 32, generator=g), torch.ones(B, 3),
    ]  # fmt: skip


def array(x):
    return x.detach().double().numpy()


def apply(linear, x):
    return x @ array(linear.weight).T + array(linear.bias)


@pytest.fixture(scope="module")
def drawn():
    return make("drawn")


@pytest.fixture(scope="module")
def released():
    return make("released")


# 1.1: the recurrent encoders


def test_lstm_is_torchs_on_packed_sequences():
    torch.manual_seed(0)
    encoder = RecurrentEncoder(5, 16, None).double()
    x, lengths = torch.randn(4, 13, 5).double(), torch.tensor([13, 1, 6, 12])
    mask = (torch.arange(13) < lengths[:, None]).double()
    x[mask == 0] = float("nan")  # what padding holds must not matter
    steps, _, summary = encoder(x, mask)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    outputs, (last, _) = encoder.lstm(packed)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    assert torch.allclose(steps, expected, atol=EXACT)
    assert torch.allclose(summary, encoder.project(last[0]), atol=EXACT)


def test_lstm_equations():
    torch.manual_seed(0)
    encoder = RecurrentEncoder(5, 16, None).double()
    x = torch.randn(1, 6, 5).double()
    steps, _, _ = encoder(x, torch.ones(1, 6).double())
    Wx, Wh, bx, bh = (array(p) for p in encoder.lstm.parameters())
    h, c = np.zeros(16), np.zeros(16)
    for t in range(6):
        i, f, g, o = np.split(Wx @ array(x)[0, t] + bx + Wh @ h + bh, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        assert np.allclose(array(steps)[0, t], h, atol=EXACT)


@pytest.mark.parametrize("T", [0, 1, 4])
def test_a_sequence_of_no_step_is_defined(T):
    encoder = RecurrentEncoder(5, 16, 6.0)
    steps, mask, summary = encoder(torch.randn(2, T, 5), torch.zeros(2, T))
    assert not steps.any()
    assert not mask.any()
    assert torch.equal(summary, encoder.project.bias.expand(2, 16))


def test_features_are_standardised_and_held():
    encoder, raw = RecurrentEncoder(5, 16, 6.0), RecurrentEncoder(5, 16, None)
    for e in (encoder, raw):
        e.feature_mean.fill_(2.0)
        e.feature_scale.fill_(0.5)
    x = torch.full((1, 1, 5), 1000.0)
    assert (encoder.standardise(x) == 6.0).all()
    assert (raw.standardise(x) == 499.0).all()


def test_padding_at_the_start_is_refused():
    with pytest.raises(UsageError, match="to the front"):
        RecurrentEncoder(5, 16, 6.0)(torch.zeros(1, 3, 5), torch.tensor([[0.0, 1.0, 1.0]]))


# 1.3: the sentiment encoder with pre-fusion


@torch.no_grad()
def test_modality_tokens(drawn):
    batch = inputs()
    out = drawn(*batch)
    for encoder, token, x, mask, got in (
        (drawn.audio, drawn.audio_token, batch[2], batch[3], out.a),
        (drawn.face, drawn.face_token, batch[4], batch[5], out.v),
    ):
        e = array(encoder(x, mask)[2])
        assert np.allclose(array(got), np.maximum(apply(token, e) + array(batch[6]), 0), atol=FLOAT32)


@torch.no_grad()
def test_personality_of_another_width_is_projected():
    teacher = make(personality_width=20)
    batch = inputs()
    batch[6] = torch.randn(3, 20)
    e = array(teacher.audio(batch[2], batch[3])[2])
    shift = array(batch[6]) @ array(teacher.fit_personality.weight).T
    assert np.allclose(array(teacher(*batch).a), np.maximum(apply(teacher.audio_token, e) + shift, 0), atol=FLOAT32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small random BERT saved by transformers."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40,
    )  # fmt: skip
    bert = transformers.BertModel(config).eval()
    for parameter in bert.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    bert.save_pretrained(folder)
    return bert, folder


@torch.no_grad()
def test_text_alone_is_bert(checkpoint):
    bert, folder = checkpoint
    teacher = Teacher.from_bert(folder, 5, 7, pre_fusion=False).eval()
    batch = inputs()
    batch[1][1, 5:] = 0.0
    expected = bert(batch[0], batch[1].long(), output_hidden_states=True).hidden_states
    out = teacher(*batch)
    assert out.hidden_cls.shape == (3, 5, 32)
    assert torch.allclose(out.hidden_cls, torch.stack(expected, dim=1)[:, :, 0], atol=FLOAT32)
    assert torch.equal(out.z, out.hidden_cls[:, -1])
    assert torch.equal(out.s, out.hidden_cls[:, teacher.config.n])


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 3])
def test_blocks_after_n_are_berts_on_the_longer_sequence(checkpoint, n):
    bert, folder = checkpoint
    teacher = Teacher.from_bert(folder, 5, 7, prefusion_block=n).eval()
    batch = inputs()
    batch[1][1, 5:] = 0.0
    out = teacher(*batch)
    x = bert(batch[0], batch[1].long(), output_hidden_states=True).hidden_states[n]
    x = torch.cat([x, out.v[:, None], out.a[:, None]], dim=1)
    bias = (1.0 - torch.cat([batch[1], torch.ones(3, 2)], dim=1))[:, None, None] * torch.finfo(torch.float32).min
    for layer in bert.encoder.layer[n:]:
        x = layer(x, bias)
        x = x[0] if isinstance(x, tuple) else x
    assert torch.allclose(out.z, x[:, 0], atol=FLOAT32)


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_a_missing_modality_changes_nothing(preset):
    teacher, base, other = make(preset), inputs(seed=1), inputs(seed=2)
    for position, modality in ((0, 0), (2, 1), (4, 2)):
        mixed = list(base)
        mixed[position] = other[position]
        if modality == 0:
            mixed[6] = other[6]  # the personality is read from the text
        assert not torch.allclose(teacher(*base).score, teacher(*mixed).score, atol=1e-4)
        present = torch.ones(3, 3)
        present[:, modality] = 0.0
        base_out, out = teacher(*base[:7], present), teacher(*mixed[:7], present)
        assert torch.allclose(base_out.score, out.score, atol=FLOAT32)
        empty = list(base)  # a mask of zeros says the same as `present`
        empty[position + 1] = torch.zeros_like(base[position + 1])
        assert torch.allclose(teacher(*empty).score, out.score, atol=FLOAT32)
        assert torch.equal(teacher(*empty).present, present)


@torch.no_grad()
def test_padding_changes_nothing(drawn):
    short = inputs()
    padded = [x.clone() for x in short]
    for i, noise in ((0, 3), (2, 1e3), (4, float("nan"))):
        extra = torch.full((3, 16, *short[i].shape[2:]), noise, dtype=short[i].dtype)
        padded[i] = torch.cat([short[i], extra], dim=1)
        padded[i + 1] = torch.cat([short[i + 1], torch.zeros(3, 16)], dim=1)
    one, two = drawn(*short), drawn(*padded)
    assert torch.allclose(one.score, two.score, atol=FLOAT32)
    assert torch.allclose(one.hidden_cls, two.hidden_cls, atol=FLOAT32)


# 1.5 and 1.6: attention and fusion


def attend(attention, query, memory):
    """Multi-head attention of one query (d,) over memory (T, d), in its textbook form: context (d,), weights (h, T)."""
    q, k, v = (apply(p, x) for p, x in ((attention.query, query), (attention.key, memory), (attention.value, memory)))
    context, weights = np.empty_like(q), []
    for part in np.split(np.arange(len(q)), attention.heads):
        scores = np.exp(k[:, part] @ q[part] / np.sqrt(len(part)))
        weights.append(scores / scores.sum())
        context[part] = weights[-1] @ v[:, part]
    return apply(attention.out, context), np.array(weights)


@torch.no_grad()
def test_the_releases_attention_and_fusion():
    """From the encoders' outputs to the score: keys padded to 500, bare attention, text not projected."""
    teacher = make("released").double()
    batch = [x.double() if x.is_floating_point() else x for x in inputs(B=1)]
    out = teacher(*batch)
    t = apply(teacher.reduce, array(out.z)[0])
    streams, weights = {}, {}
    for name, encoder, cross, i in (
        ("audio", teacher.audio, teacher.cross_audio, 2),
        ("face", teacher.face, teacher.cross_face, 4),
    ):
        steps = array(encoder(batch[i], batch[i + 1])[0])[0]
        keys = np.concatenate([steps, np.zeros((500 - len(steps), 64))])
        streams[name], weights[name] = attend(cross.attention, t, keys)
    assert np.allclose(array(out.audio_weights)[0], weights["audio"], atol=EXACT)
    assert np.allclose(array(out.face_weights)[0], weights["face"], atol=EXACT)

    fusion = teacher.enhanced
    joined = np.concatenate([t, *(apply(fusion.projections[i], streams[m]) for i, m in ((1, "face"), (2, "audio")))])
    assert len(joined) == 4096 + 64
    normed = (joined - joined.mean()) / np.sqrt(joined.var() + 1e-5)
    serial = apply(fusion.serial, normed * array(fusion.norm.weight) + array(fusion.norm.bias))  # (128,)
    stacked = np.stack([streams["face"], streams["audio"], t])  # (3, 64)
    kernel = array(fusion.parallel.weight)[0]  # (3, 3)
    parallel = np.array([(kernel * stacked[:, j : j + 3]).sum() for j in range(62)]) + array(fusion.parallel.bias)
    x = np.concatenate([serial, parallel])
    assert len(x) == 190
    x = np.tanh(apply(fusion.head[3], np.tanh(apply(fusion.head[0], x))))
    assert array(out.score)[0] == pytest.approx(apply(fusion.output, x)[0], abs=EXACT)


@torch.no_grad()
def test_without_enhanced_fusion_the_head_is_linear():
    teacher, batch = make(enhanced_fusion=False), inputs()
    out = teacher(*batch)
    t = teacher.reduce(out.z).unsqueeze(1)
    seen, _ = teacher.cross_face(t, teacher.face(batch[4], batch[5])[0], batch[5].unsqueeze(1))
    heard, _ = teacher.cross_audio(t, teacher.audio(batch[2], batch[3])[0], batch[3].unsqueeze(1))
    joined = array(torch.cat([t, seen, heard], dim=2))[:, 0]
    assert np.allclose(array(out.score), apply(teacher.joined, joined)[:, 0], atol=FLOAT32)


@torch.no_grad()
def test_attention_mass_on_real_frames(drawn, released):
    batch = inputs(Ta=50)
    batch[3][:, 40:] = 0.0
    mass = drawn(*batch).audio_weights[:, :, :40].sum(dim=2)
    assert torch.allclose(mass, torch.ones(3, 2), atol=1e-6)
    assert drawn(*batch).audio_weights[:, :, 40:].abs().max() == 0.0
    # all 500 keys take part; the scores of an untrained model differ little, so each gets about its share
    fresh = Teacher(TeacherConfig.released(5, 7, bert=BERT)).eval()
    weights = fresh(*batch).audio_weights
    assert weights.shape == (3, 2, 500)
    assert torch.allclose(weights[:, :, :40].sum(dim=2), torch.full((3, 2), 40 / 500), rtol=0.5)


@torch.no_grad()
def test_more_frames_than_the_release_pads_to(released):
    assert released(*inputs(Ta=512)).audio_weights.shape == (3, 2, 512)


# section 2: the table, row by row


def test_the_table(checkpoint):
    bert, folder = checkpoint
    drawn, released = (Teacher.from_bert(folder, 5, 7, preset) for preset in PRESETS.values())
    assert (drawn.config.key_mask, released.config.key_mask) == (True, False)
    assert type(drawn.cross_audio) is type(drawn.cross_face) is CrossModalBlock
    assert type(released.cross_audio) is type(released.cross_face) is CrossModalAttention
    assert drawn.enhanced.norm.normalized_shape == (3 * 2048,)
    assert released.enhanced.norm.normalized_shape == (2 * 2048 + 64,)
    for number, layer in enumerate(bert.encoder.layer):
        theirs = layer.intermediate.dense.weight
        assert torch.equal(drawn.text.blocks[number].up.weight, theirs)
        assert torch.equal(released.text.blocks[number].up.weight, theirs) == (number < 3)
    last = released.text.blocks[3]
    assert last.up.weight.std().item() == pytest.approx(0.02, rel=0.1)  # as BERT starts
    assert not last.up.bias.any()
    assert drawn.third is None
    assert torch.equal(released.third.blocks[3].up.weight, bert.encoder.layer[3].intermediate.dense.weight)
    assert (drawn.config.clip, drawn.config.similarity) == ("clip", "sample")
    assert (released.config.clip, released.config.similarity) == ("released", "batch")
    assert drawn.config.alignment_weight == released.config.alignment_weight == "distance"
    assert not hasattr(drawn.config, "selection")  # on the validation set alone: no option to do otherwise


def test_the_release_has_as_many_parameters_as_was_counted():
    """About 330 M with its personality encoder, of which about 221 M work (arXiv 2512.01442)."""
    bert_base = BertConfig(width=768, heads=12, feed_forward=3072, blocks=12)
    with torch.device("meta"):
        teacher = Teacher(TeacherConfig.released(5, 20, bert=bert_base))
    assert (teacher.config.n, teacher.config.k) == (11, 10)
    count = sum(p.numel() for p in teacher.parameters())
    unused = sum(p.numel() for p in teacher.third.parameters())
    personality = 109_482_240  # bert-base-uncased with its pooler, as published
    pooler = 768 * 768 + 768 + 768  # the other two have it as well, and a second segment embedding: not ours
    assert count + personality + 2 * pooler == pytest.approx(330e6, rel=0.005)
    assert count - unused + personality + pooler == pytest.approx(221e6, rel=0.005)


@torch.no_grad()
def test_the_third_encoder_changes_nothing():
    with_it, without = make("released"), make("released", third_encoder=False)
    without.load_state_dict({n: v for n, v in with_it.state_dict().items() if not n.startswith("third.")})
    assert torch.equal(with_it(*inputs()).score, without(*inputs()).score)


# what every form of the model promises


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("B", "L", "Ta", "Tv"), [(1, 1, 1, 1), (1, 2, 0, 5), (3, 40, 30, 2)])
def test_shapes(preset, B, L, Ta, Tv):
    out = make(preset)(*inputs(B, L, Ta, Tv))
    assert out.score.shape == (B,)
    assert out.hidden_cls.shape == (B, 5, 32)
    assert out.z.shape == out.s.shape == out.a.shape == out.v.shape == (B, 32)
    assert out.alignment.u.shape == out.alignment.q.shape == out.alignment.r.shape == (B, 64)
    keys = (max(1, Ta), Tv) if preset == "drawn" else (500, 500)
    assert out.audio_weights.shape == (B, 2, keys[0])
    assert out.face_weights.shape == (B, 2, keys[1])
    assert torch.isfinite(out.score).all()


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_a_sample_does_not_depend_on_its_batch(preset):
    teacher, batch = make(preset), inputs()
    batch[1][0, 4:], batch[3][1, 2:], batch[5][2] = 0.0, 0.0, 0.0
    batch[7][1, 0] = 0.0
    together = teacher(*batch)
    for b in range(3):
        alone = teacher(*(x[b : b + 1] for x in batch))
        assert torch.allclose(alone.score, together.score[b : b + 1], atol=FLOAT32)
        assert torch.allclose(alone.z, together.z[b : b + 1], atol=FLOAT32)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_gradients(preset, ablation):
    """Each parameter that trains gets a gradient, each that does not gets none, and none of them is broken."""
    config = dataclasses.replace(PRESETS[preset](5, 7, bert=BERT), **ABLATIONS[ablation])
    torch.manual_seed(0)
    teacher, batch = Teacher(config), inputs(B=6)
    batch[6].requires_grad_()
    batch[7][4, 0] = 0.0  # a sample without text, so that what stands for it takes part
    batch[7][5, 1:] = 0.0
    batch[3][3] = 0.0
    # far off on one side: the errors' signs could else cancel in a bias
    loss, _ = total_loss(teacher(*batch), torch.full((6,), 10.0), config)
    loss.backward()
    trained = {n: p for n, p in teacher.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(p.grad).all() for p in trained.values() if p.grad is not None)
    # what adds the same number to every score of a softmax cancels in it: its gradient is rounding alone, about 1e-9
    idle = {n for n, p in trained.items() if p.grad is None or p.grad.abs().max() < 1e-8}
    assert idle == {n for n in trained if n.endswith("attention.key.bias")}
    assert batch[6].grad is None  # the personality encoder stays as it is
    frozen = {n for n, p in teacher.named_parameters() if not p.requires_grad}
    assert frozen == {n for n in dict(teacher.named_parameters()) if n.startswith("third.")}
    assert all(p.grad is None for n, p in teacher.named_parameters() if n in frozen)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_batch_of_one_trains(preset, ablation):
    config = dataclasses.replace(PRESETS[preset](5, 7, bert=BERT), **ABLATIONS[ablation])
    teacher = Teacher(config)
    loss, terms = total_loss(teacher(*inputs(B=1)), torch.ones(1), config)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(terms[name] == 0.0 for name in ("ccl", "clm") if name in terms)


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_present_is_finite(preset):
    teacher, batch = make(preset), inputs()
    batch[7].zero_()
    loss, _ = total_loss(teacher(*batch), torch.ones(3), teacher.config)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in teacher.parameters() if p.grad is not None)


def test_new_weights_are_xavier_normal():
    torch.manual_seed(0)
    teacher = Teacher(TeacherConfig.drawn(5, 7, bert=BERT))
    weight = teacher.enhanced.projections[0].weight  # 2048 by 64
    assert weight.std().item() == pytest.approx(np.sqrt(2 / (2048 + 64)), rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_survive_the_disk(preset, tmp_path):
    teacher = make(preset, l_ps=0.0)
    save_teacher(teacher, tmp_path)
    loaded = load_teacher(tmp_path)
    assert loaded.config == teacher.config
    with torch.no_grad():
        assert torch.equal(loaded(*inputs()).score, teacher(*inputs()).score)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="no teacher weights"):
        load_teacher(tmp_path)


# sentences for what cannot be


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"similarity": "cosine"}, "similarity is 'cosine'; it can be 'sample' or 'batch'"),
        ({"cross_modal_block": "thin"}, "it can be 'drawn' or 'bare'"),
        ({"prefusion_block": 4}, "prefusion_block is 4; with 4 blocks it is 1 to 3"),
        ({"alignment_block": 5}, "alignment_block is 5; with 4 blocks it is 1 to 4"),
    ],
)
def test_options_that_do_not_exist(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        TeacherConfig.drawn(5, 7, bert=BERT, **options)


@pytest.mark.parametrize("change", [{"model_type": "roberta"}, {"hidden_act": "relu"}, {"model_type": None}])
def test_an_encoder_that_is_not_bert(checkpoint, tmp_path, change):
    _, folder = checkpoint
    (tmp_path / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | change))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UsageError, match="must be a plain BERT or an MPNet"):
        Teacher.from_bert(tmp_path, 5, 7)


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(UsageError, match=r"lacks config\.json and model\.safetensors"):
        Teacher.from_bert(tmp_path, 5, 7)


def test_norms_by_their_tensorflow_names(checkpoint, tmp_path):
    """bert-base-uncased on the hub: a prefix, and gamma and beta for the scale and shift of a norm."""
    from safetensors.torch import load_file, save_file

    _, folder = checkpoint
    old = {
        "bert." + n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for n, v in load_file(folder / "model.safetensors").items()
    }
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.manual_seed(0)
    new = Teacher.from_bert(folder, 5, 7).text.state_dict()
    assert all(torch.equal(v, new[n]) for n, v in Teacher.from_bert(tmp_path, 5, 7).text.state_dict().items())


def test_a_name_is_asked_of_the_hub(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    asked = []

    def download(name, allow_patterns):
        asked.append((name, set(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert find_encoder("somebody/some-bert") == tmp_path
    assert asked == [("somebody/some-bert", {"config.json", "model.safetensors", "vocab.txt"})]

    def refuse(name, allow_patterns):
        raise OSError("no route\nto host")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(UsageError, match=r"somebody/some-bert.*no route.*give a directory"):
        find_encoder("somebody/some-bert")
