"""What compile takes besides weights: a bundle in float32, and a teacher to distil first."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.backends import open_backend
from psamf_edge.bundle import open_bundle
from psamf_edge.cli import main
from psamf_edge.compile import command as command_module
from psamf_edge.compile import distilled
from psamf_edge.compile.command import CARRIED, compile_bundle
from psamf_edge.compile.data.arrays import json_array, write_arrays
from psamf_edge.compile.data.feature_file import SCHEMA
from psamf_edge.compile.export import onnx_export
from psamf_edge.compile.training.options import DataOption
from psamf_edge.errors import UsageError
from psamf_edge.plan import Features


def edited(bundle, directory: Path, change) -> Path:
    """A copy of a bundle whose manifest `change` was applied to."""
    copy = directory / "edited.psamf"
    shutil.copytree(bundle.path, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_float32_bundle_becomes_int8(tiny_bundle, compile_tiny, tmp_path: Path) -> None:
    bundle = compile_bundle(tiny_bundle.path, tmp_path / "int8.psamf", "cpu", "int8", name="again")
    assert (bundle.name, bundle.precision) == ("again", "int8")
    for key in ("student_sha256", "training"):
        assert bundle.provenance[key] == tiny_bundle.provenance[key]
    assert bundle.provenance["recompiled_from"] == {"name": "tiny", "manifest_sha256": tiny_bundle.manifest_sha256}
    assert (bundle.shapes, bundle.licence, bundle.metrics) == (
        tiny_bundle.shapes,
        tiny_bundle.licence,
        tiny_bundle.metrics,
    )
    for name in CARRIED:
        assert bundle.read(name) == tiny_bundle.read(name)
    rng, shapes = np.random.default_rng(0), bundle.shapes
    given = Features(
        rng.integers(0, shapes.vocabulary, 9),
        rng.standard_normal((50, shapes.audio_features), np.float32),
        rng.standard_normal((7, shapes.face_features), np.float32),
    )
    with open_backend(bundle, "cpu") as ours, open_backend(compile_tiny("cpu", "int8"), "cpu") as theirs:
        assert ours.run(given).score == pytest.approx(
            theirs.run(given).score, abs=1e-6
        )  # the same rounding of the same


def test_a_precision_is_not_raised_again(compile_tiny, tmp_path: Path) -> None:
    int8 = compile_tiny("cpu", "int8")
    with pytest.raises(UsageError, match=int8.provenance["student_sha256"]) as caught:
        compile_bundle(int8.path, tmp_path / "out.psamf", "cpu", "fp32")
    assert "cannot come back" in str(caught.value)
    assert list(tmp_path.glob("out*")) == []


def test_a_bundle_that_does_not_say_where_it_is_from(tiny_bundle, tmp_path: Path) -> None:
    path = edited(tiny_bundle, tmp_path, lambda manifest: manifest["provenance"].pop("student_sha256"))
    with pytest.raises(UsageError, match="which weights"):
        compile_bundle(path, tmp_path / "out.psamf")


def test_a_bundle_without_the_kernels_node(tiny_bundle, tmp_path: Path, monkeypatch) -> None:
    from psamf_edge.compile.source import open_source

    source = open_source(tiny_bundle.path)
    assert source.node is False
    assert "--fusion graph" in source.no_node


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "teacher.safetensors").write_bytes(b"weights of a teacher")
    return folder


def in_the_place_of_a_training(monkeypatch, weights: Path) -> list:
    """Distillations write `weights`, the first one none: it is interrupted. What each was called with."""
    from psamf_edge.compile.distillation import source
    from psamf_edge.compile.training import student
    from psamf_edge.compile.training.made_of import remember
    from psamf_edge.compile.training.training_data import remember_data

    calls = []

    def train(data, opened, parts, out, settings, run, command):
        remember_data(out, data, parts, settings)
        remember(out, source.ingredients(opened, "teacher", None, ()))
        calls.append((data, opened, settings.seed))
        if len(calls) == 1:
            raise KeyboardInterrupt  # in the middle
        for file in weights.iterdir():
            shutil.copy(file, out)

    monkeypatch.setattr(source, "open_source", lambda teachers, *rest: teachers)
    monkeypatch.setattr(student, "train_student", train)
    return calls


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for corpus in ("mosi", "mosei"):
        (tmp_path / "data" / corpus).mkdir(parents=True)
        (tmp_path / "data" / corpus / "labels.csv").write_text("text,label,split\n")
    return tmp_path / "data"


def test_a_teacher_is_distilled_once(teacher, data, tiny_weights, tiny_export, tmp_path, monkeypatch) -> None:
    calls = in_the_place_of_a_training(monkeypatch, tiny_weights)
    monkeypatch.setattr(onnx_export, "export", lambda segment: tiny_export.models[segment.plan.name])
    output = tmp_path / "out.psamf"
    arguments = ["compile", str(teacher), "-o", str(output), "--data", str(data), "--precision", "fp32"]
    assert CliRunner().invoke(main, arguments).exit_code == 130
    assert not output.exists()
    for force in ([], ["--force"]):
        result = CliRunner().invoke(main, [*arguments, *force])
        assert result.exit_code == 0, result.stderr
    assert calls == [(data, [teacher], 0)] * 2  # interrupted, finished, and not a third time
    assert "was distilled into" in result.stderr
    assert open_bundle(output).provenance["training"] == {"source": "none: untrained"}
    assert (tmp_path / "out.student" / "student.safetensors").is_file()


def test_a_finished_student_is_of_this_teacher_data_and_parts_alone(teacher, data, tmp_path, monkeypatch) -> None:
    weights, parts, other_parts, empty = (tmp_path / name for name in ("weights", "parts", "other", "empty"))
    for folder in (weights, parts, other_parts, empty):
        folder.mkdir()
    (weights / "training.json").write_text("{}")
    (other_parts / "vocab.txt").write_text("so\n")
    calls, lines = in_the_place_of_a_training(monkeypatch, weights), []

    def distil(data: Path, parts: Path = parts, *settings: str) -> Path:
        return distilled.distil_first(
            teacher, DataOption(data, ()), parts, tmp_path / "student", lines.append, settings
        )

    with pytest.raises(KeyboardInterrupt):
        distil(data)
    distil(data)
    moved = data.rename(tmp_path / "moved")
    assert distil(moved) == tmp_path / "student"
    assert lines[-1].endswith("was distilled into " + str(tmp_path / "student") + " before")

    for changed, what in (((moved, other_parts), "--parts"), ((empty,), "--data mosi/labels.csv")):
        with pytest.raises(UsageError, match=rf"begun with something else: {what} \("):
            distil(*changed)
    with pytest.raises(UsageError, match=r"begun with other settings: seed \(0 there, 1 now\)"):
        distil(moved, parts, "seed=1")
    (moved / "mosei" / "labels.csv").write_text("text,label,split\nso,1,train\n")
    with pytest.raises(UsageError, match=r"begun with something else: --data mosei/labels\.csv \("):
        distil(moved)
    (moved / "mosei" / "labels.csv").write_text("text,label,split\n")
    (teacher / "teacher.safetensors").write_bytes(b"another one")
    with pytest.raises(UsageError, match=r"begun with something else: TEACHERS \("):
        distil(moved)
    assert len(calls) == 2


def test_a_finished_student_is_of_these_feature_files_alone(teacher, tmp_path, monkeypatch) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "training.json").write_text("{}")
    calls = in_the_place_of_a_training(monkeypatch, tmp_path / "weights")
    file, other_parts = tmp_path / "mine.npz", tmp_path / "parts"

    def distil(parts: Path = tmp_path) -> None:
        distilled.distil_first(teacher, DataOption(None, (file,)), parts, tmp_path / "student", print)

    def extract(by: str) -> None:
        write_arrays(file, {"header": json_array({"schema": SCHEMA, "splits": {"train": 1}, "by": by})})

    extract("one")
    with pytest.raises(KeyboardInterrupt):
        distil()
    distil()
    distil()
    other_parts.mkdir()
    (other_parts / "vocab.txt").write_text("so\n")
    with pytest.raises(UsageError, match=r"begun with something else: --parts \("):
        distil(other_parts)
    extract("two")
    with pytest.raises(UsageError, match="begun with other feature files"):
        distil()
    assert len(calls) == 2


def test_a_teacher_needs_data_and_a_folder_of_its_own(teacher, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--features"):
        distilled.distil_first(teacher, DataOption(None, ()), tmp_path, tmp_path / "new", print)
    with pytest.raises(UsageError, match="something else"):
        distilled.distil_first(teacher, DataOption(tmp_path, ()), tmp_path, teacher, print)


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--precision", "fp16"), 2, "no precision fp16"),
        (("--calibrate", "data.csv"), 2, "Nothing is calibrated for cpu in int8: leave out --calibrate"),
        (("--target", "tensorrt", "--fusion", "plugin", "--no-engines"), 2, "leave out --no-engines"),
        (("--target", "rtx"), 3, "This needs tensorrt-rtx"),
        (("--no-engines",), 2, "The target cpu has no engines: leave out --no-engines and --low-memory"),
        (("--low-memory",), 2, "The target cpu has no engines"),
        (
            ("--target", "rtx", "--low-memory", "--no-engines"),
            2,
            "leave out --low-memory, and set PSAMF_EDGE_LOW_MEMORY",
        ),
        (("--max-mae", "0.01"), 2, "with --validate"),
        (("--max-acc2", "0.5"), 2, "with --validate"),
        (("--max-gap", "nan"), 2, "nan is no bound"),
    ],
)
def test_a_wrong_call_is_found_before_a_teacher_is_distilled(
    teacher, tmp_path, monkeypatch, options, code, sentence
) -> None:
    def distil(*arguments):
        raise AssertionError("hours later")

    monkeypatch.setattr(command_module, "distil_first", distil)
    monkeypatch.chdir(tmp_path)
    for flavour in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, flavour, None)
    Path("data.csv").write_text("id,text,label\n1,so,1\n")
    result = CliRunner().invoke(main, ["compile", str(teacher), "-o", "o.psamf", "--data", ".", *options])
    assert result.exit_code == code, result.stderr
    assert sentence in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("o.*"))


def test_what_is_for_a_teacher_is_refused_with_weights(tiny_weights, tmp_path) -> None:
    for option in ("--parts", "--data", "--student"):
        result = CliRunner().invoke(
            main, ["compile", str(tiny_weights), "-o", str(tmp_path / "o.psamf"), option, str(tmp_path)]
        )
        assert result.exit_code == 2
        assert "are for a teacher to distil" in result.stderr
