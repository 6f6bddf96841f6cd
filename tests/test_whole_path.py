"""The whole path in miniature, by its commands: personality, teacher, distillation, compilation to int8, evaluation."""

import csv
import itertools
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from click.testing import CliRunner
from conftest import DEFAULT_WEIGHTS, VOCABULARY

from psamf_edge.audio.features import AUDIO_FEATURES
from psamf_edge.cli import main
from psamf_edge.compile.command import CARRIED
from psamf_edge.compile.data.valence import VALENCE
from psamf_edge.compile.personality import evaluation
from psamf_edge.face.features import VISION_FEATURES

GOOD, BAD = "good", "bad"
RAVDESS = {"happy": "03", "angry": "05", "neutral": "01"}
QUICK = ("--set", "max_tokens=32", "--threads", "1", "--device", "cpu")


def write_csv(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sentences whose label is one word, and files for the voices, whose features are in the cache."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def sentence(good):
        return " ".join(rng.permutation([GOOD if good else BAD, "day", "tea", "it"]))

    for name, count in (("mosi", 96), ("mosei", 96)):
        rows = [
            (i, sentence(i % 2), 2.0 if i % 2 else -2.0, "valid" if i % 4 > 1 else "train") for i in range(2 * count)
        ]
        write_csv(folder / name / "labels.csv", ("id", "text", "label", "split"), rows)
    for actor in range(1, 21):
        for code, take in itertools.product(RAVDESS.values(), ("01", "02")):
            path = folder / "speech" / "ravdess" / f"03-01-{code}-01-01-{take}-{actor:02d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()  # never decoded: see `caches`
    traits = ("OPN", "CON", "EXT", "AGR", "NEU")
    write_csv(folder / "essays.csv", ("id", "text", *traits),
              [(i, f"{sentence(i % 2)}. " * 4, *[i % 2] * 5) for i in range(40)])  # fmt: skip
    write_csv(folder / "friends_persona.csv", ("characters", "raw_text", "scene_id", *(f"c{t}" for t in traits)),
              [("Ann Lee", f"<b>Ann Lee</b>: {sentence(i % 2)}<br><br>", f"01_e{i:02d}_c01(0)", *[bool(i % 2)] * 5)
               for i in range(40)])  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def caches(data, tmp_path_factory):
    """Features as a first run would leave them: feature 0 is the valence. Real voices and faces would take minutes."""
    folder, rng = tmp_path_factory.mktemp("caches"), np.random.default_rng(1)
    files = sorted((data / "speech").rglob("*.wav"))
    emotions = [next(e for e, code in RAVDESS.items() if path.stem.split("-")[2] == code) for path in files]
    values = np.concatenate([
        np.column_stack([np.full(64, VALENCE[e]), rng.normal(size=(64, len(AUDIO_FEATURES) - 1))]) for e in emotions
    ]).astype(np.float32)  # fmt: skip
    names = [feature.name for feature in AUDIO_FEATURES]
    np.savez(folder / "speech.npz", values=values, lengths=np.full(len(files), 64), names=names)
    for split in ("train", "valid"):
        emotions = rng.choice(list(RAVDESS), 80)
        features = rng.normal(size=(80, len(VISION_FEATURES))).astype(np.float32)
        features[:, 0] = [VALENCE[e] for e in emotions]
        names = [feature.name for feature in VISION_FEATURES]
        np.savez(folder / f"faces-{split}.npz", features=features, emotions=emotions, found=np.ones(80, bool),
                 names=names)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small untrained BERT as transformers writes it."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY) + 4, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=128, initializer_range=0.2,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*VOCABULARY, GOOD, BAD, "day", "tea"]) + "\n")
    return folder


@pytest.fixture(scope="module")
def parts(bert, tmp_path_factory):
    """The vocabulary of that BERT, and the real face models."""
    folder = tmp_path_factory.mktemp("parts")
    for name in (*CARRIED, "NOTICE-mediapipe.txt"):
        shutil.copy(bert / name if name == "vocab.txt" else DEFAULT_WEIGHTS / name, folder)
    return folder


def run(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output + str(result.stderr)
    return result.stdout


@pytest.fixture(scope="module")
def weights(data, caches, bert, parts, tmp_path_factory):
    """Weights of a student of two text blocks, distilled from a teacher of three."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("teacher", "student"):
        shutil.copytree(caches, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RESAMPLES", 50)  # the intervals are not what is tested
        run("train", "personality", "--data", data, "--bert", bert, "-o", folder / "personality", *QUICK,
            "--set", "min_tokens=8")  # fmt: skip
    run("train", "teacher", "--data", data, "--bert", bert, "--personality", folder / "personality", "--parts", parts,
        "-o", folder / "teacher", "--epochs", 4, "--set", "text_lr=2e-3", "--set", "new_lr=2e-3", "--set", "batch=16",
        "--set", "average_decay=0.9", *QUICK)  # fmt: skip
    (folder / "further.csv").write_text("said\nit good tea\nday bad it\n")
    run("distill", folder / "teacher", "--data", data, "--parts", parts, "-o", folder / "student", "--text-blocks", 2,
        "--set", "text_epochs=4", "--set", "trunk_lr=2e-3", "--set", "batch=16", "--set", "voice_steps=60",
        "--set", "fusion_epochs=2", "--set", "average_decay=0.9",
        "--sentences", f"{folder}/further.csv:said", *QUICK)  # fmt: skip
    return folder / "student"


def test_the_student_has_learnt_the_word(weights):
    record = json.loads((weights / "training.json").read_text())
    assert record["metrics"]["text mosi"]["acc2_non0"] == 1.0  # one word decides, and the teacher knows it
    assert record["settings"]["text_blocks"] == 2
    assert "distill" in record["command"]
    assert "further.csv:said" in record["command"]
    assert record["data"]["sentences without labels"] == 2
    assert record["calibration"]


def test_it_compiles_and_evaluates(weights, data, tmp_path):
    run("compile", weights, "--target", "cpu", "--precision", "int8", "-o", tmp_path / "tiny.psamf")
    metrics = json.loads(run("evaluate", data / "mosi" / "labels.csv", "--bundle", tmp_path / "tiny.psamf"))
    assert metrics["acc2_non0"] == 1.0
    assert metrics["n"] == 192
