"""The composition of training samples and the pieces of the training loop."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from safetensors.torch import save_file
from tiny_training import compose, make_corpora, make_student

from psamf_edge.compile.data.compose import SIDE_RATES, Composer, combine
from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.speech import SpeechSet, describe
from psamf_edge.compile.data.text import TextSet, read_text_set
from psamf_edge.compile.data.valence import NEGATIVE, VALENCE, side_of
from psamf_edge.compile.data.voice_augment import SHORTEST_SHARE, VoiceAugmenter
from psamf_edge.compile.training.batching import LengthBatches
from psamf_edge.compile.training.epochs import Run
from psamf_edge.compile.training.fusion_stage import (
    AUDIO,
    draw_subsets,
    set_feature_scales,
    train_fusion,
    wrong_signs,
)
from psamf_edge.compile.training.log import Log
from psamf_edge.compile.training.loop import AveragedWeights, linear_schedule, score_loss
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.compile.training.text_stage import train_text
from psamf_edge.compile.training.validation import SUBSETS, score_alone, sign_accuracy, validate
from psamf_edge.compile.training.voice_stage import keep_voice, kept_voice, mix, sampling_weights, train_voice
from psamf_edge.errors import UsageError
from psamf_edge.words.wordpiece import WordPiece


@pytest.fixture
def corpora():
    return make_corpora()


def test_labels_combine_as_documented():
    label = np.array([2.0, -2.0, 0.0])
    assert combine(label, np.array([1, 0, 0])) == 2.0
    assert combine(label, np.array([0, 1, 0])) == -2.0
    assert combine(label, np.array([1, 0, 1])) == 2.0  # a neutral face leaves the words alone
    assert combine(label, np.array([0, 1, 1])) == -2.0
    conflict = combine(label, np.array([1, 1, 0]))
    assert conflict == pytest.approx((0.6 * 2 - 0.25 * 2) / 0.85)
    assert combine(np.zeros(3), np.ones(3)) == 0.0
    assert combine(np.array([0.0, 0.0, 1.8]), np.ones(3)) == pytest.approx(1.8)


def test_every_emotion_has_a_side():
    assert {side_of(VALENCE[e]) for e in NEGATIVE} == {-1}
    assert side_of(VALENCE["happy"]) == 1
    assert side_of(VALENCE["neutral"]) == side_of(VALENCE["surprise"]) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("03-01-05-02-01-01-19.opus", ("ravdess", "angry", "ravdess 19")),
        ("03-01-03-02-01-01-01.opus", ("ravdess", "happy", "ravdess 01")),
        ("03a01Fa.opus", ("emodb", "happy", "emodb 03")),
        ("09b02Wd.opus", ("emodb", "angry", "emodb 09")),
    ],
)
def test_speech_names(name, expected, tmp_path):
    assert describe(tmp_path / name) == expected


def test_validation_speakers_are_not_trained_on():
    speakers = np.array(["ravdess 09", "ravdess 19", "emodb 09", "emodb 19"])
    speech = SpeechSet([np.zeros((1, 63))] * 4, np.full(4, "happy"), np.full(4, ""), speakers)
    assert speech.validation.tolist() == [False, True, True, False]


def test_padding_keeps_an_empty_batch_convolvable():
    values, mask = pad([np.zeros((0, 4)), np.zeros((0, 4))], np.float32)
    assert values.shape == (2, 1, 4)
    assert mask.sum() == 0


def test_composition_repeats_and_keeps_real_labels(corpora):
    rows, present = np.arange(16), draw_subsets(16, np.random.default_rng(3))
    first, second = (Composer(*corpora, np.random.default_rng(7), augment=True).batch(rows, present) for _ in range(2))
    for a, b in zip(first.arrays(), second.arrays(), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(first.labels[:, 0], corpora[0].labels[rows])  # column 0 is text alone
    assert np.abs(first.labels[:, 1]).max() <= 2.0  # column 1 the voice: the valence of one recording or a blend of two


def test_voice_labels_do_not_inherit_the_lean_of_the_text(corpora):
    text = TextSet("mosei", corpora[0].ids, np.full(96, 1.5, np.float32))  # every sentence positive
    composer = Composer(text, *corpora[1:], np.random.default_rng(0), augment=False)
    voices = [composer.draw_sides(1)[0] for _ in range(4000)]
    # matching 0.40 and half of the independent lean to the text; conflicts and the other half against it
    assert 0.1 < np.mean(np.array(voices) == -1) < 0.4


def test_sampling_balances_the_sides():
    emotions = np.array(["happy", "angry", "angry", "sad", "fear", "disgust", "neutral"])
    weights = sampling_weights(emotions)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] == pytest.approx(SIDE_RATES[2])
    assert weights[1] + weights[2] == pytest.approx(weights[3])


def test_mixup_blends_samples_and_targets_alike():
    x = torch.arange(4.0).view(4, 1, 1).expand(4, 3, 2)
    blended, (target,) = mix(x, (torch.arange(4.0),), 0.4, np.random.default_rng(0))
    assert torch.allclose(blended[:, 0, 0], target)
    assert (target - torch.arange(4.0)).abs().max() <= 1.5  # at most half of the way to the farthest other


def test_crops_keep_the_shortest_share():
    augment = VoiceAugmenter(np.random.default_rng(0))
    lengths = [len(augment(np.zeros((400, 63), np.float32))) for _ in range(200)]
    assert SHORTEST_SHARE * 400 <= min(lengths) < 0.4 * 400
    assert max(lengths) > 0.9 * 400
    assert len(augment(np.zeros((40, 63), np.float32))) == 40  # shorter than half a second: whole


def test_the_fusion_keeps_the_voice_s_own_valence(corpora, tmp_path):
    """Of two answers that differ, labels and stage 2's, the score of a voice alone takes the one that weighs more."""
    run, gaps = Run(Log(tmp_path / "log.csv", lambda line: None)), []
    for weight in (0.0, 4.0):
        student, samples = make_student(dropout=0.0), compose(corpora)
        set_feature_scales(student, samples)
        settings = TrainSettings(batch=16, fusion_epochs=4, fusion_lr=3e-3, average_decay=0.9, voice_weight=weight)
        train_fusion(student, samples, settings, run, hear=lambda x, mask: torch.full((len(x),), 2.5))
        gaps.append(np.abs(score_alone(student, corpora[1].features, [], AUDIO) - 2.5).mean())
    assert gaps[1] < 0.5 < gaps[0]


def test_batches_hold_each_row_once_and_pad_little():
    lengths = np.random.default_rng(0).integers(3, 90, 1003)
    batches = list(LengthBatches(lengths, 32, np.random.default_rng(1)))
    rows = np.concatenate(batches)
    assert len(set(rows)) == len(rows) == 992
    padding = sum(lengths[b].max() * len(b) for b in batches) / lengths[rows].sum()
    assert padding < 1.1  # unsorted batches would give 1.8


def test_schedule_rises_and_falls():
    factor = linear_schedule(100, 0.1)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == pytest.approx(0.91)
    assert factor(100) == 0.0


def test_average_of_a_constant_is_the_constant():
    model = torch.nn.Linear(2, 1)
    average = AveragedWeights(model, 0.9)
    for _ in range(5):
        average.update(model)
    assert torch.allclose(average.values["weight"], model.weight)


def test_scale_loss_leaves_the_score_alone():
    score, scale = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[0.3]], requires_grad=True)
    score_loss(score, scale, torch.tensor([[0.0]]), scale_weight=0.5).backward()
    assert score.grad.item() == pytest.approx(1.0)  # of |y^ - y| alone
    assert scale.grad.item() == pytest.approx(0.5 * (1.0 - np.exp(-0.3)))


def test_scores_lean_to_the_likelier_side_where_the_median_is_neutral():
    labels = torch.tensor([[0.0]] * 5 + [[-2.0]] * 3 + [[1.8]] * 2)  # the median is 0
    score = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([score], lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        each = score.expand(len(labels))[:, None]
        ((each - labels).abs().mean() + wrong_signs(each, labels)).backward()
        optimizer.step()
    assert -0.2 < score.item() < -0.01


def test_neutral_labels_have_no_wrong_sign():
    score = torch.tensor([[2.0, -2.0], [-3.0, 0.0]])
    assert wrong_signs(score, torch.zeros(2, 2)) == 0.0
    labels = torch.tensor([[1.0, 1.0], [0.0, -0.5]])
    assert wrong_signs(score, labels) == pytest.approx((0.0 + 1.0 + 0.5) / 3, abs=1e-6)


def test_sign_accuracy_is_balanced():
    emotions = np.array(["happy", "angry", "sad", "fear", "neutral"])
    assert sign_accuracy(np.array([1.0, 1.0, -1.0, -1.0, 9.0]), emotions) == pytest.approx((1 + 2 / 3) / 2)


def test_csv_errors_name_the_line(tmp_path):
    wordpiece = WordPiece("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good"]).encode())
    path = tmp_path / "mosi" / "labels.csv"
    path.parent.mkdir()
    path.write_text("text,label,split\ngood,1.5,train\n")
    assert len(read_text_set(path, "train", wordpiece, 20)) == 1
    with pytest.raises(UsageError, match="no row with split 'valid'"):
        read_text_set(path, "valid", wordpiece, 20)
    path.write_text("text,label,split\ngood,4.5,train\n")
    with pytest.raises(UsageError, match="line 2"):
        read_text_set(path, "train", wordpiece, 20)
    path.write_text("words,label\ngood,1\n")
    with pytest.raises(UsageError, match="lacks the columns"):
        read_text_set(path, "train", wordpiece, 20)


def test_a_kept_voice_is_the_one_that_was_trained(corpora, tmp_path):
    _, speech, _ = corpora
    student, other, path = make_student(0.0), make_student(0.0), tmp_path / "voice.safetensors"
    settings = TrainSettings(voice_steps=3, batch=8)
    task = train_voice(student.audio, speech, settings, Run(Log(None, lambda line: None)))
    keep_voice(task, path, settings)
    kept = kept_voice(path, other.audio, speech, replace(settings, fusion_epochs=1, text_epochs=1))
    assert kept.encoder is other.audio
    assert (kept.training, kept.dropout.training) == (task.training, task.dropout.training) == (False, False)
    for name, value in task.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value), name
    with pytest.raises(UsageError, match="voice_steps 3, and 4 is asked for"):
        kept_voice(path, other.audio, speech, replace(settings, voice_steps=4))
    with pytest.raises(UsageError, match="does not fit this model"):
        kept_voice(path, other.audio, speech.select(speech.emotions != "happy"), settings)
    save_file(task.state_dict(), path)  # of no known settings
    with pytest.raises(UsageError, match="seed None"):
        kept_voice(path, other.audio, speech, settings)


def test_all_stages_learn_each_modality(corpora, tmp_path):
    """A miniature of the whole training: after it, words, voice and face each give the right sign alone."""
    text, speech, faces = corpora
    student = make_student(dropout=0.0)
    settings = TrainSettings(
        batch=16, text_epochs=12, fusion_epochs=24, mosi_repeats=1, trunk_lr=2e-3, new_lr=2e-3, fusion_lr=3e-3,
        average_decay=0.9, voice_steps=100,
    )  # fmt: skip
    run = Run(Log(tmp_path / "log.csv", lambda line: None))
    before = [p.clone() for p in student.trunk.parameters()]
    assert train_text(student, [text], [text], settings, run)["mosi"]["acc2_non0"] == 1.0
    assert not torch.equal(before[0], next(student.trunk.parameters()))
    trunk = [p.clone() for p in student.trunk.parameters()]
    samples = compose(corpora, settings.seed + 1)
    set_feature_scales(student, samples)
    voice = train_voice(student.audio, speech, settings, run)
    train_fusion(student, samples, settings, run, hear=voice.valence)
    assert all(torch.equal(a, b) for a, b in zip(trunk, student.trunk.parameters(), strict=True)), "the trunk is frozen"
    metrics = validate(student, [text], speech, faces, settings)
    assert metrics["text mosi"]["acc2_non0"] == 1.0
    assert metrics["audio ravdess"]["sign_accuracy"] > 0.95
    assert metrics["face fer2013"]["sign_accuracy"] > 0.95
    assert {f"composed mosi {name}" for name in SUBSETS} <= set(metrics)
    assert (tmp_path / "log.csv").read_text().count("fusion") >= 5
