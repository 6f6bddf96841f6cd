"""Trainings on real samples: MMSA's files to a teacher, a student, a bundle; what is missing, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import mmsa_files
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from bert_files import write_bert
from click.testing import CliRunner
from conftest import DEFAULT_WEIGHTS
from safetensors.torch import load_file

from psamf_edge.audio.features import AUDIO_FEATURES
from psamf_edge.cli import main
from psamf_edge.compile.command import CARRIED
from psamf_edge.compile.data.feature_file import MmsaSet, load_features, read_header, save_features
from psamf_edge.compile.data.real import LONGEST, RealSamples, read_clips, step_statistics, unused_features
from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.model.student import load_student
from psamf_edge.compile.model.teacher import load_teacher
from psamf_edge.compile.personality.model import PersonalityEncoder, save_personality
from psamf_edge.compile.training.epochs import Run
from psamf_edge.compile.training.log import Log
from psamf_edge.compile.training.objective import PretrainedText
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.compile.training.student import train_student
from psamf_edge.compile.training.training_data import RealData
from psamf_edge.compile.training.validation import SUBSETS
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES

OURS = (len(AUDIO_FEATURES), len(VISION_FEATURES))
MOSI = tuple(mmsa_files.SIZES.values())
TOKENS = 1100  # of the small vocabulary; the sentences of mmsa_files have ids from 1000 on
GOOD, BAD = 1001, 1002
QUICK = ("--set", "batch=8", "--set", "average_decay=0.9", "--threads", "1", "--device", "cpu")


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output + str(result.stderr)
    return result.stdout


def write_pickle(path: Path, sizes: tuple[int, int]) -> Path:
    """An unaligned MMSA file: one word decides. It has -inf and NaN, and clips without voice or face."""
    with pytest.MonkeyPatch.context() as patch:
        for stream, size in zip(mmsa_files.SIZES, sizes, strict=True):
            patch.setitem(mmsa_files.SIZES, stream, size)
        made = {"train": mmsa_files.split(48, 1), "valid": mmsa_files.split(20, 2)}
    for name, split in made.items():
        good = np.arange(len(split["id"])) % 2 == 0
        split["id"] = np.array([f"{name}{i // 2}$_${i}" for i in range(len(good))])  # two clips a video
        split["text_bert"][:] = 0
        split["text_bert"][:, 0, :3] = np.column_stack([np.full_like(good, 101, int), np.where(good, GOOD, BAD),
                                                        np.full_like(good, 102, int)])  # fmt: skip
        split["text_bert"][:, 1, :3] = 1
        split["regression_labels"] = np.where(good, 2.0, -2.0)
        split["audio"][3:5] = split["vision"][4:6] = 0
    made["train"]["audio"][0, 0, :2] = -np.inf, np.nan
    return mmsa_files.write(path, made)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Feature files by their sizes, as `extract` makes them of MMSA's."""
    folder = tmp_path_factory.mktemp("features")
    for sizes in (MOSI, OURS):
        run("extract", write_pickle(folder / "mosi.pkl", sizes), "-o", folder / f"mosi{sizes[0]}.npz")
    return {sizes: folder / f"mosi{sizes[0]}.npz" for sizes in (MOSI, OURS)}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small untrained BERT with a vocabulary in which MMSA's ids mean what they do."""
    words = [f"[unused{i}]" for i in range(TOKENS)]
    words[0], words[100:103], words[GOOD], words[BAD] = "[PAD]", ("[UNK]", "[CLS]", "[SEP]"), "good", "bad"
    config = BertConfig(vocabulary=TOKENS, width=32, heads=2, feed_forward=64, blocks=3, positions=128)
    return write_bert(tmp_path_factory.mktemp("bert"), config, words)


@pytest.fixture(scope="module")
def parts(bert, tmp_path_factory):
    """That vocabulary, and the real face models."""
    folder = tmp_path_factory.mktemp("parts")
    for name in (*CARRIED, "NOTICE-mediapipe.txt"):
        shutil.copy(bert / name if name == "vocab.txt" else DEFAULT_WEIGHTS / name, folder)
    return folder


@pytest.fixture(scope="module")
def personality(tmp_path_factory):
    """An untrained personality encoder."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("personality")
    config = BertConfig(vocabulary=TOKENS, width=32, heads=2, feed_forward=32, blocks=2, positions=64)
    save_personality(PersonalityEncoder(config), folder, {})
    return folder


@pytest.fixture(scope="module")
def trained(files, bert, parts, personality, tmp_path_factory):
    """Folders of a teacher and of the student distilled from it, by the sizes of the features."""
    folder = tmp_path_factory.mktemp("runs")
    for sizes, file in files.items():
        epochs = 8 if sizes == OURS else 1  # the other is there for its sizes
        teacher, student = folder / f"teacher{sizes[0]}", folder / f"student{sizes[0]}"
        run("train", "teacher", "--features", file, "--bert", bert, "--personality", personality, "-o", teacher,
            "--epochs", epochs, "--set", "text_lr=2e-3", "--set", "patience=0", *QUICK)  # fmt: skip
        run("distill", teacher, "--features", file, "--parts", parts, "-o", student, "--text-blocks", 2,
            "--set", f"text_epochs={epochs}", "--set", "trunk_lr=2e-3", "--set", "new_lr=2e-3",
            "--set", "fusion_epochs=1", *QUICK)  # fmt: skip
    return {sizes: (folder / f"teacher{sizes[0]}", folder / f"student{sizes[0]}") for sizes in files}


@pytest.mark.parametrize("sizes", [MOSI, OURS])
def test_a_teacher_and_a_student_learn_from_real_samples(trained, files, sizes):
    teacher, student = trained[sizes]
    assert (load_teacher(teacher).config.audio_features, load_teacher(teacher).config.face_features) == sizes
    assert (load_student(student).config.audio_features, load_student(student).config.face_features) == sizes
    for folder in (teacher, student):
        assert all(tensor.isfinite().all() for path in folder.glob("*.safetensors") for tensor in
                   load_file(path).values())  # fmt: skip
        record = json.loads((folder / "training.json").read_text())
        assert record["data"]["samples"].startswith("real")
        assert record["data"]["clips"] == {"train": 48, "valid": 20}
        (about,) = record["data"]["features"]
        assert len(about["sha256"]) == 64
        assert about["about"] == read_header(files[sizes])
        assert (about["about"]["audio"]["minus_inf"], about["about"]["audio"]["nan"]) == (1, 1)
        assert about["about"]["vision"]["empty"] == 4
        metrics = {name.removeprefix("clips "): values for name, values in record["metrics"].items()}
        assert set(metrics) == set(SUBSETS)
        if sizes == OURS:
            assert metrics["text"]["acc2_non0"] == 1.0  # one word decides
        assert "valence" not in record
        # clips 3 and 4 of a split have no voice, 4 and 5 no face
        counts = {"text": 20, "audio": 18, "face": 18, "audio+face": 19, "all": 20}
        assert {name: metrics[name]["n"] for name in counts} == counts
    assert record["calibration"]["sets"]["clips text"]["n"] == 20
    assert "--features" in record["command"]


def test_a_student_of_our_features_compiles_and_evaluates(trained, tmp_path):
    run("compile", trained[OURS][1], "--precision", "fp32", "-o", tmp_path / "mine.psamf")
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text", "label"), (0, "good", 2.0), (1, "bad", -2.0)])
    metrics = json.loads(run("evaluate", tmp_path / "labels.csv", "--bundle", tmp_path / "mine.psamf"))
    assert (metrics["n"], metrics["acc2_non0"]) == (2, 1.0)


def test_a_student_of_other_features_cannot_be_compiled(trained, tmp_path):
    result = invoke("compile", trained[MOSI][1], "-o", tmp_path / "mosi.psamf")
    assert result.exit_code == 2
    assert "reads 5 voice and 20 face features a step, and the features of a clip are 63 and 69" in result.stderr
    assert not (tmp_path / "mosi.psamf").exists()


# what the samples are


def make_clips(words: list[int], audio: list[int], vision: list[int]) -> MmsaSet:
    """Clips with so many words and steps."""
    rng, N, L = np.random.default_rng(0), len(words), max(words) + 2
    text_ids, text_mask = np.zeros((N, L), np.int64), np.zeros((N, L), np.float32)
    for i, count in enumerate(words):
        text_ids[i, : count + 2] = [101, *range(1000, 1000 + count), 102]
        text_mask[i, : count + 2] = 1
    streams = ([rng.normal(5.0, 2.0, (n, d)).astype(np.float32) for n in counts] for counts, d in
               ((audio, 5), (vision, 20)))  # fmt: skip
    labels = np.linspace(-3, 3, N).astype(np.float32)
    return MmsaSet([f"v{i}$_$0" for i in range(N)], [""] * N, text_ids, text_mask, *streams, labels)


EVERY = np.array(list(SUBSETS.values()), np.float32)


def test_what_is_missing_is_not_present_and_no_subset_is_empty():
    samples = RealSamples(make_clips([3, 0, 4, 0, 2], [9, 5, 0, 0, 1], [4, 6, 0, 0, 0]), np.random.default_rng(0))
    assert samples.left_out == 1
    assert samples.there.tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert len(samples.sentences()) == 3
    assert samples.text.videos.tolist() == ["v0", "v1", "v2", "v4"]
    batch = samples.batch(np.arange(4), np.tile(EVERY, (4, 1, 1)))
    assert batch.present.any(axis=2).all()
    assert (batch.present <= samples.there[:, None]).all()
    for row, there in zip(batch.present, samples.there, strict=True):
        for given, wanted in zip(row, EVERY, strict=True):
            left = wanted * there
            assert given.tolist() == (left if left.any() else there).tolist()
    # one clip, one label, whatever is taken from it
    assert np.array_equal(batch.labels, np.repeat(samples.text.labels[:, None], 7, axis=1))
    assert [array.sum(axis=1).tolist() for array in (batch.text_mask, batch.audio_mask, batch.face_mask)] == [
        [5, 2, 6, 4], [9, 5, 0, 1], [4, 6, 0, 0]
    ]  # fmt: skip
    assert np.array_equal(batch.ids[0], [101, 1000, 1001, 1002, 102, 0])
    assert batch.ids.dtype == np.int64
    assert {array.dtype for array in batch.arrays()[1:]} == {np.dtype(np.float32)}


def test_what_is_too_long_loses_its_end():
    samples = RealSamples(make_clips([9], [LONGEST + 5], [3]), np.random.default_rng(0), max_tokens=5)
    assert samples.text.ids[0].tolist() == [101, 1000, 1001, 1002, 102]
    assert len(samples.audio[0]) == LONGEST


def test_statistics_are_those_of_all_steps():
    clips = make_clips([1] * 30, [0, *range(29)], [4] * 30)
    audio, _ = RealSamples(clips, np.random.default_rng(0)).statistics()
    steps = np.concatenate(clips.audio).astype(np.float64)
    # float32 has seven digits
    np.testing.assert_allclose(audio.mean, steps.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(audio.spread, steps.std(axis=0), rtol=1e-6)
    assert audio.mean.dtype == audio.spread.dtype == np.float32
    many = [np.full((100_000, 1), 100.1, np.float32)] * 30  # summed in float32 their mean would be off by a percent
    assert step_statistics(many).mean[0] == pytest.approx(100.1, rel=1e-6)


def test_framing_is_left_out_of_our_face_features_alone(tmp_path):
    clips = make_clips([1], [1], [1])
    about = {"vision": {"features": [feature.name for feature in VISION_FEATURES]}}
    for name, said in (("ours", about), ("mmsa", {"vision": {"size": 20}}), ("silent", {})):
        save_features(tmp_path / f"{name}.npz", {"train": clips}, said)
    unused = unused_features([tmp_path / "ours.npz"])
    assert [f.name for f, out in zip(VISION_FEATURES, unused, strict=True) if out] == [
        "head_roll", "face_size", "mesh_score"
    ]  # fmt: skip
    assert unused_features([tmp_path / "ours.npz", tmp_path / "mmsa.npz"]) is None
    assert unused_features([tmp_path / "silent.npz"]) is None


def test_several_files_are_one(tmp_path, files):
    other = make_clips([60, 2], [3, 0], [2, 2])  # a longer sentence than MMSA's 50 tokens
    save_features(tmp_path / "other.npz", {"train": other}, {})
    joined, first = read_clips([files[MOSI], tmp_path / "other.npz"], "train"), load_features(files[MOSI], "train")
    assert joined.ids == [*first.ids, *other.ids]
    assert np.array_equal(joined.labels, np.concatenate([first.labels, other.labels]))
    assert np.array_equal(joined.text_ids[-2], other.text_ids[0])
    assert joined.text_mask.sum() == first.text_mask.sum() + other.text_mask.sum()
    assert np.array_equal(joined.audio[-2], other.audio[0])
    with pytest.raises(UsageError, match=r"63 voice and 69 face features a step, .* has 5 and 20"):
        read_clips([files[MOSI], files[OURS]], "train")


# what is refused


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (([1] * 3, [1] * 3, [1] * 3), "3 training clips with words, too few for a batch of 4; .*--set batch=N"),
        (([1] * 4, [0] * 4, [1] * 4), "No training clip of .* has a voice"),
        (([1] * 4, [1] * 4, [0] * 4), "No training clip of .* has a face"),
    ],
)
def test_too_little_to_train_on(tmp_path, train, sentence):
    save_features(tmp_path / "a.npz", {"train": make_clips(*train), "valid": make_clips([1], [1], [1])}, {})
    with pytest.raises(UsageError, match=sentence):
        RealData([tmp_path / "a.npz"], TrainSettings(batch=4))


def test_a_file_needs_a_validation_split(tmp_path):
    clips = make_clips([1] * 4, [1] * 4, [1] * 4)
    save_features(tmp_path / "a.npz", {"train": clips}, {})
    with pytest.raises(UsageError, match="no split 'valid'"):
        RealData([tmp_path / "a.npz"], TrainSettings(batch=4))
    save_features(tmp_path / "a.npz", {"train": clips, "valid": make_clips([0], [1], [1])}, {})
    with pytest.raises(UsageError, match=r"No validation clip of .* has words"):
        RealData([tmp_path / "a.npz"], TrainSettings(batch=4))


@pytest.mark.parametrize("given", [(), ("--data", "--features")])
@pytest.mark.parametrize("command", [("train", "student"), ("train", "teacher"), ("distill",)])
def test_one_of_data_and_features(command, given, files, bert, personality, tmp_path):
    values = {"--data": tmp_path, "--features": files[MOSI]}
    needed = {"student": ("--bert", bert), "teacher": ("--bert", bert, "--personality", personality)}
    own = needed[command[1]] if len(command) == 2 else (tmp_path,)
    chosen = [word for name in given for word in (name, values[name])]
    result = invoke(*command, *own, *chosen, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "either --data, a folder" in result.stderr
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_ends_with_a_sentence(files, bert, personality, parts, tmp_path):
    config = BertConfig(vocabulary=200, width=32, heads=2, feed_forward=64, blocks=2, positions=64)
    small = write_bert(tmp_path / "bert", config, ["[PAD]"])
    sentence = "token ids up to 1002, and the model knows 200 tokens"
    result = invoke("train", "student", "--features", files[OURS], "--bert", small, "--parts", parts, "-o",
                    tmp_path / "student", *QUICK)  # fmt: skip
    assert (result.exit_code, sentence in result.stderr) == (2, True)
    result = invoke("train", "teacher", "--features", files[OURS], "--bert", small, "--personality", personality, "-o",
                    tmp_path / "teacher", *QUICK)  # fmt: skip
    assert (result.exit_code, sentence in result.stderr) == (2, True)


def test_a_teacher_of_other_features_is_refused(trained, files, parts, tmp_path):
    result = invoke("distill", trained[MOSI][0], "--features", files[OURS], "--parts", parts, "-o", tmp_path, *QUICK)
    assert result.exit_code == 2
    assert "63 voice and 69 face features a step, the teacher was trained with 5 and 20" in result.stderr


# after a stop


def train(folder, file, bert, parts):
    settings = TrainSettings(batch=8, text_epochs=1, fusion_epochs=2, patience=2, checkpoint_every=2, text_blocks=2)
    open_run = Run(Log(folder / "log.csv", lambda line: None), folder=folder / "checkpoints", most_time=1.0)
    train_student([file], PretrainedText(bert), parts, folder, settings, open_run)
    return load_file(folder / "student.safetensors")


def test_a_stopped_training_ends_as_one_that_was_not(files, bert, parts, tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", files[MOSI], bert, parts)
    batch, calls = RealSamples.batch, []

    def stop(samples, rows, present):
        calls.append(rows)
        if len(calls) == 6:  # in the first epoch of stage 3, after a checkpoint
            raise KeyboardInterrupt
        return batch(samples, rows, present)

    with monkeypatch.context() as patch:
        patch.setattr(RealSamples, "batch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", files[MOSI], bert, parts)
    assert (tmp_path / "stopped" / "checkpoints" / "fusion.safetensors").is_file()
    resumed = train(tmp_path / "stopped", files[MOSI], bert, parts)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    voice = [name for name in whole if name.startswith("audio.convolutions")]
    fresh = load_file(tmp_path / "whole" / "checkpoints" / "fusion.safetensors")
    assert all(any(key.endswith(name) for key in fresh) for name in voice)  # it trains with the rest
    with pytest.raises(UsageError, match="begun with other feature files"):
        train(tmp_path / "whole", files[OURS], bert, parts)
