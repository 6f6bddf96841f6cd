"""How the expression net is made: cached faces, augmentation, metrics, training, export."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss

from psamf_edge.compile.expression import data, metrics, train
from psamf_edge.compile.expression.augment import augment
from psamf_edge.compile.expression.export import PARITY_BOUND, export, parity
from psamf_edge.compile.expression.model import ExpressionCNN
from psamf_edge.errors import IntegrityError, UsageError
from psamf_edge.face.expression import EXPRESSIONS, ExpressionNet

FACES = Path(__file__).parents[1].parent / "shared" / "data" / "faces"


def bars(count, seed=0):
    """Pictures that differ by class in the height of a bright bar, which survives every augmentation."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(EXPRESSIONS)  # (N,)
    pictures = rng.integers(0, 80, (count, 48, 48)).astype(np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[6 * label + 3 : 6 * label + 8, 6:42] = 220
    return data.Faces(pictures, pictures[:, :, ::-1].copy(), labels % 3 > 0, labels, labels % 2 == 0)


def trained_looking(seed=0):
    """Random weights, and batch-norm statistics unlike the initial ones, so that folding them is put to the test."""
    torch.manual_seed(seed)
    net = ExpressionCNN()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return net


def test_onnx_computes_what_pytorch_computes():
    net = trained_looking()
    onnx_bytes, difference = export(net)
    assert 0 < difference < PARITY_BOUND
    crops = bars(11).raw
    with torch.inference_mode():
        logits, embedding = net.eval()(torch.from_numpy(crops))
    expected = torch.cat([logits.softmax(-1), embedding], dim=1).numpy()
    np.testing.assert_allclose(ExpressionNet(onnx_bytes).embed(crops), expected, atol=PARITY_BOUND)


def test_the_export_folds_every_batch_norm():
    import onnx

    onnx_bytes, _ = export(trained_looking())
    assert "BatchNormalization" not in {node.op_type for node in onnx.load_model_from_string(onnx_bytes).graph.node}


def test_parity_notices_other_weights():
    onnx_bytes, _ = export(trained_looking(0))

    def other(crops):
        logits, embedding = trained_looking(1).eval()(crops)
        return logits.softmax(-1), embedding

    with pytest.raises(IntegrityError, match="differs from PyTorch"):
        parity(other, onnx_bytes)


@pytest.mark.parametrize("count", [1, 5, 33])
def test_augmented_faces_stay_pictures(count):
    torch.manual_seed(0)
    faces = augment(torch.from_numpy(bars(count).raw))
    assert faces.shape == (count, 48, 48)
    assert faces.dtype == torch.float32
    assert faces.min() >= 0
    assert faces.max() <= 255
    assert faces.std() > 10  # not washed out


def test_augmentation_differs_each_time_and_repeats_with_the_seed():
    pictures = torch.from_numpy(bars(8).raw)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(augment(pictures))
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def test_augmentation_keeps_up_up():
    torch.manual_seed(0)
    picture = np.zeros((256, 48, 48), np.uint8)
    picture[:, 24:] = 200  # lower half bright
    mean = augment(torch.from_numpy(picture)).mean(dim=0)
    assert mean[36:].mean() > mean[:12].mean() + 100


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(7), 400)
    labels = rng.integers(0, 7, 400)
    scores = metrics.score(probabilities, labels)
    decided = probabilities.argmax(axis=1)
    assert scores["faces"] == 400
    assert scores["confusion"] == confusion_matrix(labels, decided, labels=range(7)).tolist()
    assert scores["mean_recall"] == pytest.approx(
        balanced_accuracy_score(labels, decided), abs=1e-4
    )  # rounded to 4 places
    assert scores["cross_entropy"] == pytest.approx(log_loss(labels, probabilities, labels=range(7)), abs=1e-4)
    happy, negative = 3, [0, 1, 2, 5]
    sided = np.isin(labels, [happy, *negative])
    positive = probabilities[sided, happy] > probabilities[sided][:, negative].sum(axis=1)
    expected = balanced_accuracy_score(labels[sided] == happy, positive)
    assert scores["valence_sign"] == pytest.approx(expected, abs=1e-4)


def test_metrics_without_both_signs():
    assert metrics.score(np.eye(7), np.arange(7))["valence_sign"] == 1
    assert metrics.score(np.eye(7)[:3], np.arange(3))["valence_sign"] is None


def write_archive(path, classes, labels, **more):
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 48, 48), np.uint8)
    np.savez(path, images=images, labels=np.array(labels, np.uint8), classes=np.array(classes), **more)


def test_archive_labels_follow_names_not_numbers(tmp_path):
    write_archive(tmp_path / "odd_valid.npz", ["sadness", "contempt", "happy", "anger"], [0, 1, 2, 3, 0])
    images, labels, held_out = data.read_archive(tmp_path / "odd_valid.npz")
    assert [EXPRESSIONS[label] for label in labels] == ["sad", "happy", "angry", "sad"]
    assert images[:, 0, 0].tolist() == [0, 2, 3, 4]  # contempt is gone
    assert held_out.all()


def test_archive_is_split_by_person(tmp_path):
    people = [f"S{i // 3:03}" for i in range(75)]
    write_archive(tmp_path / "posed.npz", ["happy"], [0] * 75, subject=np.array(people))
    _, _, held_out = data.read_archive(tmp_path / "posed.npz")
    assert {person for person, out in zip(people, held_out, strict=True) if out} == {"S000", "S010", "S020"}
    assert held_out.sum() == 9


def test_archive_with_an_unknown_class_is_refused(tmp_path):
    write_archive(tmp_path / "x.npz", ["happy", "bored"], [0, 1])
    with pytest.raises(UsageError, match="bored"):
        data.read_archive(tmp_path / "x.npz")


def test_a_missing_cache_says_how_to_make_it(tmp_path):
    with pytest.raises(UsageError, match=r"expression\.data"):
        data.load(tmp_path, "fer2013_train")


@pytest.mark.skipif(not FACES.is_dir(), reason="the training data is not on this machine")
def test_real_archives_have_the_known_classes():
    images, labels, held_out = data.read_archive(FACES / "ckplus48.npz")
    assert images.shape == (981 - 54, 48, 48)  # without contempt
    assert set(np.unique(labels)) == {EXPRESSIONS.index(name) for name in EXPRESSIONS if name != "neutral"}
    assert 50 < held_out.sum() < 200


def test_a_small_training_learns():
    faces = bars(224)
    net = ExpressionCNN()
    train.fit(net, faces, train.Settings(epochs=5, batch=32, bfloat16=False))
    onnx_bytes, _ = export(net)
    unseen = bars(70, seed=1)
    scores = train.evaluate(ExpressionNet(onnx_bytes), unseen)
    assert scores["raw"]["accuracy"] > 0.7  # chance is 1/7
    assert scores["aligned"]["faces"] == unseen.found.sum()


def test_the_learning_rate_rises_and_falls():
    rates = np.array([train.one_cycle(progress) for progress in np.linspace(0, 1, 101)])
    peak = rates.argmax()
    assert rates[peak] == pytest.approx(1)
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_training_ends_in_time():
    settings = train.Settings(epochs=10**6, minutes=0.02, batch=16, bfloat16=False)
    assert 0 < train.fit(ExpressionCNN(), bars(32), settings) < 10**4


def test_the_command_writes_weights_model_and_result(tmp_path):
    for name in data.ARCHIVES:
        faces = bars(28)
        np.savez(tmp_path / f"{name}.npz", **{f: getattr(faces, f) for f in data.Faces.__dataclass_fields__})
    onnx_path, result = tmp_path / "net.onnx", tmp_path / "results" / "net.json"
    arguments = ["--cache", tmp_path, "--run", tmp_path / "run", "--onnx", onnx_path, "--result", result, "--epochs", 1]
    outcome = CliRunner().invoke(train.main, [str(a) for a in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0
    report = json.loads(result.read_text())
    assert [training["epochs_done"] for training in report["trainings"]] == [1]
    assert report["model"]["bytes"] == onnx_path.stat().st_size
    assert report["metrics"]["fer2013_valid"]["raw"]["faces"] == 28

    weights = tmp_path / "run" / "expression.safetensors"
    outcome = CliRunner().invoke(train.main, [*map(str, arguments), "--start", str(weights)], catch_exceptions=False)
    assert outcome.exit_code == 0
    assert len(json.loads(result.read_text())["trainings"]) == 2  # the result tells of both


@pytest.mark.parametrize("full", ["weights", "model", "result"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, full):
    for name in data.ARCHIVES:
        faces = bars(28)
        np.savez(tmp_path / f"{name}.npz", **{f: getattr(faces, f) for f in data.Faces.__dataclass_fields__})
    paths = {
        "weights": tmp_path / "expression.safetensors",
        "model": tmp_path / "a.onnx",
        "result": tmp_path / "a.json",
    }
    for path in paths.values():
        path.write_bytes(b"what was there")

    def half(*given, **options):
        with open(next(each for each in given if isinstance(each, Path)), "wb") as file:
            file.write(b"ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "fit", lambda *arguments: 1.0)
    monkeypatch.setattr(train, "evaluate", lambda *arguments: {})
    monkeypatch.setattr(train, "latency", lambda *arguments: {})
    owner, name = {
        "weights": ("safetensors.torch", "save_file"), "model": ("pathlib.Path", "write_bytes"),
        "result": ("pathlib.Path", "write_text"),
    }[full]  # fmt: skip
    monkeypatch.setattr(f"{owner}.{name}", half)
    arguments = ["--cache", tmp_path, "--run", tmp_path, "--onnx", paths["model"], "--result", paths["result"]]
    outcome = CliRunner().invoke(train.main, [str(a) for a in arguments])
    assert "No space left" in str(outcome.exception)
    assert paths[full].read_bytes() == b"what was there"


@pytest.mark.parametrize("option", ["--epochs", "--minutes", "--threads"])
def test_a_training_of_no_length_is_refused(tmp_path, option):
    arguments = ["--cache", tmp_path, "--run", tmp_path, "--onnx", tmp_path / "a", "--result", tmp_path / "b"]
    outcome = CliRunner().invoke(train.main, [*map(str, arguments), option, "0"])
    assert outcome.exit_code == 2
    assert f"Invalid value for '{option}'" in outcome.output
