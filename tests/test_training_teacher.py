"""The teacher's training: it learns, its schedules and subsets are what they say, and it goes on after a stop."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from tiny_training import compose, make_corpora, make_student

from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.model.teacher import Teacher, TeacherConfig
from psamf_edge.compile.training import teacher_stage, validation
from psamf_edge.compile.training.epochs import Run, Validation
from psamf_edge.compile.training.fusion_stage import set_feature_scales
from psamf_edge.compile.training.log import Log
from psamf_edge.compile.training.teacher_stage import (
    PlateauSchedule,
    TeacherSettings,
    draw_present,
    train_teacher,
    validate_teacher,
)
from psamf_edge.compile.training.validation import SUBSETS, validate_samples
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES

BERT = BertConfig(vocabulary=10, width=32, heads=4, feed_forward=64, blocks=3, positions=8)
SETTINGS = TeacherSettings(
    batch=16, epochs=4, text_lr=2e-3, new_lr=2e-3, average_decay=0.9, patience=0, bfloat16=False, checkpoint_every=3
)


@pytest.fixture
def corpora():
    return make_corpora(96)


def make_teacher(corpora, preset=TeacherConfig.drawn, **options):
    torch.manual_seed(0)
    teacher = Teacher(preset(63, len(VISION_FEATURES), bert=BERT, serial_width=64, **options))
    set_feature_scales(teacher, compose(corpora))
    return teacher


def vectors(corpora):
    return np.random.default_rng(1).normal(size=(len(corpora[0]), 32)).astype(np.float32)


def open_run(folder, checkpoints=False):
    log = Log(folder / "log.csv", lambda line: None)
    return Run(log, folder=folder / "checkpoints" if checkpoints else None, most_time=1.0)


@pytest.mark.parametrize("preset", [TeacherConfig.drawn, TeacherConfig.released])
def test_it_learns(corpora, preset, tmp_path):
    teacher, personality = make_teacher(corpora, preset), vectors(corpora)
    before = validate_teacher(teacher, compose(corpora, augment=False), personality)
    assert list(before) == list(SUBSETS)
    train_teacher(teacher, compose(corpora), personality, dataclasses.replace(SETTINGS, epochs=9), open_run(tmp_path))
    after = validate_teacher(teacher, compose(corpora, augment=False), personality)
    assert not teacher.training
    assert after["text"]["mae"] < 0.7 * before["text"]["mae"]  # one token says it all
    names = {line.split(",")[2] for line in (tmp_path / "log.csv").read_text().splitlines()}
    assert {"loss", "l1", "ccl", "ps", "clm"} <= names


def test_teacher_and_student_are_judged_on_the_same_samples(corpora, monkeypatch):
    text = corpora[0]
    lengths = np.random.default_rng(2).integers(0, 5, len(text))  # of like length they would be in order anyway
    ids = [np.append(row, np.full(n, 3)) for row, n in zip(text.ids, lengths, strict=True)]
    corpora = (dataclasses.replace(text, ids=ids), *corpora[1:])
    judged = []
    for module in (teacher_stage, validation):
        monkeypatch.setattr(module, "by_subset", lambda scores, labels, present, subsets: judged.append(labels))
    validate_teacher(make_teacher(corpora), compose(corpora, augment=False), vectors(corpora), batch=64)
    validate_samples(make_student(0.0), compose(corpora, augment=False), batch=16)
    np.testing.assert_array_equal(*judged)


def test_bfloat16_trains(corpora, tmp_path):
    settings = dataclasses.replace(SETTINGS, epochs=1, bfloat16=True)
    teacher = make_teacher(corpora)
    train_teacher(teacher, compose(corpora), vectors(corpora), settings, open_run(tmp_path))
    assert all(torch.isfinite(p).all() for p in teacher.parameters())
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}


def test_each_sample_has_one_subset():
    settings = TeacherSettings(full_share=0.4, text_share=0.2)
    present = draw_present(7000, settings, np.random.default_rng(0))
    assert present.shape == (7000, 1, 3)
    rows, counts = np.unique(present[:, 0], axis=0, return_counts=True)
    shares = {tuple(row): count / 7000 for row, count in zip(rows, counts, strict=True)}
    assert set(shares) == set(SUBSETS.values())  # never nothing
    for subset, share in shares.items():
        # a binomial share of 7000 has a spread of at most 0.006
        rest = 0.4 / 6
        expected = {SUBSETS["all"]: 0.4, SUBSETS["text"]: 0.2 + rest}.get(subset, rest)
        assert share == pytest.approx(expected, abs=0.03)
    everything = TeacherSettings(full_share=1.0, text_share=0.0)
    assert draw_present(50, everything, np.random.default_rng(0)).all()


def test_shares_of_more_than_the_whole_are_refused():
    with pytest.raises(UsageError, match=r"0\.8 and 0\.3; together they are at most 1"):
        TeacherSettings(full_share=0.8, text_share=0.3)


@pytest.mark.parametrize("preset", ["drawn", "released"])
def test_settings_make_the_model(preset):
    settings = TeacherSettings(preset=preset, l_ps=0.0, pre_fusion=False)
    config = settings.preset_of_model(63, 69, **settings.options_of_model)
    assert config == getattr(TeacherConfig, preset)(63, 69, l_ps=0.0, pre_fusion=False)


def test_the_plateau_halves_the_rates(corpora, tmp_path):
    settings = dataclasses.replace(SETTINGS, schedule="plateau", plateau_patience=1, validate_every=2, epochs=2)
    errors = iter([1.0, 0.9, 0.95, 0.92, 0.8, 0.9, 0.9])
    seen, teacher = [], make_teacher(corpora)
    made = PlateauSchedule.__init__

    def watch(schedule, optimizer, patience):
        made(schedule, optimizer, patience)
        seen.append(schedule)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlateauSchedule, "__init__", watch)
        judge = Validation(lambda: {"mae": next(errors)}, "mae")
        train_teacher(teacher, compose(corpora), vectors(corpora), settings, open_run(tmp_path), judge)
    # twelve steps, six judgements: the third and the fourth bring no better error
    assert [group["lr"] for group in seen[0].optimizer.param_groups] == [1e-3, 1e-3]
    assert next(errors) == 0.9  # only the seventh is left


@pytest.mark.parametrize("schedule", ["linear", "plateau"])
def test_a_stopped_training_ends_as_one_that_was_not(corpora, schedule, tmp_path):
    settings = dataclasses.replace(SETTINGS, schedule=schedule, plateau_patience=0, patience=5)

    def train(folder, stop_at=None):
        errors = iter([1.0, 1.2, 0.7, 0.9])
        if resumed := (tmp_path / folder / "checkpoints").exists():
            next(errors)

        def judge():
            error = next(errors)
            if error == stop_at:
                raise KeyboardInterrupt
            return {"mae": error}

        teacher = make_teacher(corpora)
        run = open_run(tmp_path / folder, checkpoints=True)
        train_teacher(teacher, compose(corpora), vectors(corpora), settings, run, Validation(judge, "mae"))
        return teacher, resumed

    whole, _ = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("stopped", stop_at=1.2)
    resumed, did_resume = train("stopped")
    assert did_resume
    assert all(torch.equal(v, resumed.state_dict()[n]) for n, v in whole.state_dict().items())


def test_a_plateau_wants_a_validation(corpora, tmp_path):
    with pytest.raises(UsageError, match="set patience or validate_every"):
        dataclasses.replace(SETTINGS, schedule="plateau", patience=0)
    settings = dataclasses.replace(SETTINGS, schedule="plateau", patience=1)
    with pytest.raises(UsageError, match="give validation data"):
        train_teacher(make_teacher(corpora), compose(corpora), vectors(corpora), settings, open_run(tmp_path))
