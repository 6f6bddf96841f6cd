"""What compile takes besides weights: a bundle in float32, and a teacher to distil first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.backends import open_backend
from psamf_edge.bundle import open_bundle
from psamf_edge.cli import main
from psamf_edge.compile import distilled
from psamf_edge.compile.command import CARRIED, compile_bundle
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


def test_a_teacher_is_distilled_once(teacher, tiny_weights, tiny_export, tmp_path, monkeypatch) -> None:
    from psamf_edge.compile.distillation import source
    from psamf_edge.compile.training import student

    calls = []

    def train(data, opened, parts, out, settings, run, command):
        calls.append((data, opened, settings.seed))
        if len(calls) == 1:
            raise KeyboardInterrupt  # in the middle
        for file in tiny_weights.iterdir():
            shutil.copy(file, out)

    monkeypatch.setattr(source, "open_source", lambda teachers, *rest: teachers)
    monkeypatch.setattr(student, "train_student", train)
    monkeypatch.setattr(onnx_export, "export", lambda segment: tiny_export.models[segment.plan.name])
    data = tmp_path / "data"
    data.mkdir()
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

    (teacher / "teacher.safetensors").write_bytes(b"another one")
    result = CliRunner().invoke(main, [*arguments, "--force"])
    assert result.exit_code == 2
    assert "another teacher" in result.stderr


def test_a_teacher_needs_data_and_a_folder_of_its_own(teacher, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--features"):
        distilled.distil_first(teacher, DataOption(None, ()), tmp_path, tmp_path / "new", print)
    with pytest.raises(UsageError, match="something else"):
        distilled.distil_first(teacher, DataOption(tmp_path, ()), tmp_path, teacher, print)
    result = CliRunner().invoke(
        main, ["compile", str(teacher), "-o", str(tmp_path / "o.psamf"), "--data", str(tmp_path), "--precision", "fp16"]
    )
    assert result.exit_code == 2  # found before hours of training
    assert "no precision fp16" in result.stderr
