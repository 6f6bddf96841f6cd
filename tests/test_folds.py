"""Folds of the calibration hold out whole videos and whole speakers, with whatever corpora are there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from conftest import VOCABULARY
from tiny_training import make_corpora, make_student, with_speakers

from psamf_edge.compile.calibration.calibrate import calibrate_folds
from psamf_edge.compile.calibration.folds import deal, deal_corpora
from psamf_edge.compile.calibration.predictions import gather, gather_clips
from psamf_edge.compile.data.faces import FaceSet
from psamf_edge.compile.data.feature_file import MmsaSet
from psamf_edge.compile.data.real import RealSamples
from psamf_edge.compile.data.text import TextSet, read_text_set
from psamf_edge.compile.data.valence import VALENCE, side_of
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES
from psamf_edge.words.wordpiece import WordPiece

LABELS = """id,text,label,split
film_-a_1,good,1.0,valid
film_-a_12,bad,-1.0,valid
film_-a_2,bad,-1.0,train
10017_3_2041,good,2.0,valid
10017_4_2042,bad,-2.0,valid
words,good,1.0,valid
,good,1.0,valid
,bad,-1.0,valid
"""


def read_labels(folder, table: str) -> TextSet:
    (folder / "labels.csv").write_text(table)
    return read_text_set(folder / "labels.csv", "valid", WordPiece("\n".join(VOCABULARY).encode()), 16)


def apart(groups, fold) -> bool:
    """Whether no group is in two folds."""
    return len(set(zip(groups, fold, strict=True))) == len(set(groups))


def test_a_row_names_its_video(tmp_path):
    text = read_labels(tmp_path, LABELS)
    assert text.videos.tolist() == ["film_-a", "film_-a", "10017", "10017", "words", "line 8", "line 9"]
    assert text.groups.tolist() == np.unique(text.videos, return_inverse=True)[1].tolist()


def test_without_ids_every_row_stands_alone(tmp_path):
    text = read_labels(tmp_path, "\n".join(line.partition(",")[2] for line in LABELS.splitlines()))
    assert text.videos is None
    assert text.groups.tolist() == list(range(7))


def test_dealing_spreads_every_kind():
    kinds = np.array(["happy"] * 11 + ["sad"] * 5 + ["neutral"] * 20)
    folds = deal(np.arange(36), kinds, 5, np.random.default_rng(0))
    for kind in np.unique(kinds):
        counts = np.bincount(folds[kinds == kind], minlength=5)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_dealing_parts_no_group_and_fills_folds_alike(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, 60)
    groups = rng.permutation(np.repeat(np.arange(60), sizes))
    folds = deal(groups, np.zeros(len(groups)), 5, rng)
    assert apart(groups, folds)
    filled = np.bincount(folds, minlength=5)
    assert filled.max() - filled.min() <= sizes.max()  # the fullest was the emptiest when its last group came


def test_fewer_groups_than_folds_leave_folds_empty():
    folds = deal(np.array(["a", "b", "a", "b"]), np.zeros(4), 5, np.random.default_rng(0))
    assert folds[0] == folds[2] != folds[1] == folds[3]


def test_videos_and_speakers_stay_whole():
    """Of six speakers of two corpora, as in the validation split, five folds; each corpus in as many as it can."""
    text, speech, faces = with_speakers(make_corpora(), (10,) * 6)
    speech = replace(speech, corpora=np.repeat(["emodb", "ravdess"], [20, 40]))
    speech = replace(speech, emotions=np.tile(["happy", "angry", "neutral", "sad", "fear"], 12))
    videos = np.random.default_rng(0).integers(0, 12, len(text)).astype(str)
    dealt = deal_corpora([replace(text, videos=videos), text], speech, faces, 5)
    assert dealt.count == 5
    assert apart(videos, dealt.texts[0])
    assert not apart(videos, dealt.texts[1]), "without videos, sentences are dealt one by one"
    assert apart(speech.speakers, dealt.voices)
    assert len(set(dealt.voices[:20])) == 2
    assert len(set(dealt.voices[20:])) == 4
    for k in range(5):
        for emotions, of in ((speech.emotions, dealt.voices), (faces.emotions, dealt.faces)):
            assert {side_of(VALENCE[emotion]) for emotion in emotions[of == k]} == {-1, 0, 1}


@pytest.mark.parametrize(
    ("emotions", "count"),
    [
        (["happy angry neutral"] * 6, 5),
        (["happy angry neutral"] * 3, 3),
        # two have one side each: a fold of theirs needs one of the others as well
        (["happy happy happy", "angry angry angry", "happy angry neutral", "happy sad neutral"], 2),
    ],
)
def test_few_or_onesided_speakers_make_fewer_folds(emotions, count):
    text, speech, faces = make_corpora()
    each = np.array(" ".join(emotions).split())
    speakers = np.repeat([f"ravdess {i:02d}" for i in range(len(emotions))], 3)
    speech = replace(speech.select(np.arange(60) < len(each)), emotions=each, speakers=speakers)
    dealt = deal_corpora([text], speech, faces, 5)
    assert dealt.count == count
    assert apart(speakers, dealt.voices)


def test_one_speaker_ends_with_a_sentence():
    text, speech, faces = make_corpora()
    with pytest.raises(UsageError, match="validation voices are too few: each of at least 2 folds needs"):
        deal_corpora([text], speech, faces, 5)
    with pytest.raises(UsageError, match="validation voices and faces are too few"):
        deal_corpora([text], speech, FaceSet(faces.features[:2], faces.emotions[:2], faces.found[:2]), 5)


@pytest.fixture(scope="module")
def student():
    return make_student(dropout=0.0)


@pytest.fixture
def corpora():
    """Two videos whose labels are all positive and all negative, and speakers of 10, 12, 18 and 20 recordings."""
    text, speech, faces = with_speakers(make_corpora())
    return replace(text, videos=np.where(text.labels > 0, "liked", "hated")), speech, faces


def test_what_is_gathered_is_of_whole_videos_and_speakers(student, corpora):
    text, speech, faces = corpora
    folds = [{s.name: s for s in fold} for fold in gather(student, [text], speech, faces, batch=32, folds=5)]
    assert len(folds) == 4
    assert sorted(len(fold["audio ravdess"].labels) for fold in folds) == [10, 12, 18, 20]
    found = [set(fold["text mosi"].labels) for fold in folds if "text mosi" in fold]
    assert sorted(found, key=max) == [{-2.0}, {2.0}], "the other two folds have no sentence"


def test_a_fold_with_one_class_is_calibrated(student, corpora):
    text, speech, faces = corpora
    record = calibrate_folds(gather(student, [text], speech, faces, batch=32, folds=5)).record
    assert record["folds"] == 4
    assert record["sets"]["text mosi"]["n"] == len(text)
    for values in record["sets"].values():
        assert np.isfinite([*values["before"].values(), *values["after"].values()]).all()


def make_clips(videos: list[str], labels: list[float]) -> RealSamples:
    rng, N = np.random.default_rng(0), len(videos)
    streams = [[rng.normal(size=(4, size)).astype(np.float32)] * N for size in (63, len(VISION_FEATURES))]
    ids, mask = np.tile([2, 5, 3], (N, 1)), np.ones((N, 3), np.float32)
    names = [f"{video}$_${i}" for i, video in enumerate(videos)]
    return RealSamples(MmsaSet(names, [""] * N, ids, mask, *streams, np.array(labels, np.float32)), rng)


def test_clips_of_a_video_stay_together(student):
    """Three videos of labels of their own make three folds, one of them with one class only."""
    clips = make_clips(["a"] * 4 + ["b"] * 3 + ["c"] * 5, [1, -1, 1, -1, 2, -2, 2, 3, 3, 3, 3, 3])
    assert len(clips.sentences().videos) == 12
    folds = gather_clips(student, clips, batch=4, folds=5)
    assert sorted(sorted(abs(fold[0].labels)) for fold in folds) == [[1] * 4, [2] * 3, [3] * 5]
    assert calibrate_folds(folds).record["sets"]["clips text"]["n"] == 12
    with pytest.raises(UsageError, match="all of one video"):
        gather_clips(student, make_clips(["a"] * 4, [1, -1, 1, -1]), batch=4, folds=5)
