"""The compile command, from weights to a bundle on disk."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from psamf_edge.backends import open_backend
from psamf_edge.bundle import open_bundle
from psamf_edge.compile.command import CARRIED, PRECISIONS, command, compile_bundle
from psamf_edge.errors import IntegrityError, MissingDependencyError, UsageError
from psamf_edge.plan import Features


def test_the_manifest_says_what_the_bundle_is(tiny_bundle, tiny_weights: Path) -> None:
    assert (tiny_bundle.name, tiny_bundle.target, tiny_bundle.precision) == ("tiny", "cpu", "fp32")
    assert [(segment.name, segment.when) for segment in tiny_bundle.plan] == [
        ("text", "text"),
        ("audio", "audio"),
        ("face", "face"),
        ("fusion", None),
    ]
    assert set(tiny_bundle.files) == {*CARRIED, *(segment.file for segment in tiny_bundle.plan)}
    assert tiny_bundle.metrics["mae"] == 1.5
    assert tiny_bundle.provenance["training"] == {"source": "none: untrained"}
    assert set(tiny_bundle.provenance["parity"]) >= {"hidden", "score", "log_scale"}
    shapes = tiny_bundle.shapes
    assert (shapes.hidden, shapes.width, shapes.audio_stride, shapes.face_stride) == (32, 16, 8, 1)
    assert (shapes.max_tokens, shapes.max_audio_hops, shapes.max_face_frames) == (128, 3000, 300)
    for name in CARRIED:
        assert tiny_bundle.read(name) == (tiny_weights / name).read_bytes()


def test_every_byte_of_a_real_bundle_counts(compile_tiny, tmp_path: Path) -> None:
    bundle = compile_tiny("cpu", "int8")
    for name in bundle.files:
        copy = tmp_path / f"{name}.psamf"
        shutil.copytree(bundle.path, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(IntegrityError) as caught:
            open_bundle(copy).verify()
        assert caught.value.exit_code == 4
        shutil.rmtree(copy)


def test_int8_scores_like_float32(compile_tiny, tiny_bundle) -> None:
    rng, shapes = np.random.default_rng(0), tiny_bundle.shapes
    with open_backend(tiny_bundle, "cpu") as exact, open_backend(compile_tiny("cpu", "int8"), "cpu") as rounded:
        assert rounded.precision == "int8"
        for _ in range(10):
            given = Features(
                rng.integers(0, shapes.vocabulary, 20),
                rng.standard_normal((300, shapes.audio_features), np.float32),
                rng.standard_normal((30, shapes.face_features), np.float32),
            )
            # scores of an untrained student spread by about 0.1; eight bits may move them by a tenth of that
            assert rounded.run(given).score == pytest.approx(exact.run(given).score, abs=0.01)


def test_the_same_weights_give_the_same_manifest(tiny_weights, tiny_bundle, tiny_export, tmp_path, monkeypatch) -> None:
    from psamf_edge.compile.export import onnx_export

    monkeypatch.setattr(onnx_export, "export", lambda segment: tiny_export.models[segment.plan.name])
    again = compile_bundle(tiny_weights, tmp_path / "other.psamf", "cpu", "fp32", name="tiny")
    assert again.manifest_sha256 == tiny_bundle.manifest_sha256


@pytest.mark.parametrize(
    ("target", "precision"), [("cpu", "fp16"), ("rtx", "int4"), ("tensorrt", "bf16"), ("tpu", None), ("cpu", "fp8")]
)
def test_combinations_that_do_not_exist(tmp_path: Path, target: str, precision: str | None) -> None:
    with pytest.raises(UsageError, match="allowed are"):
        compile_bundle(tmp_path, tmp_path / "out.psamf", target, precision)


def test_an_output_of_another_name_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"out\.psamf in place of out"):
        compile_bundle(tiny_weights, tmp_path / "out")


def test_an_output_that_exists_is_found_before_any_work(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out.psamf").mkdir()
    with pytest.raises(UsageError, match="exists"):
        compile_bundle(tiny_weights, tmp_path / "out.psamf")
    with pytest.raises(UsageError, match="not a bundle"):
        compile_bundle(tiny_weights, tmp_path / "out.psamf", force=True)


def test_incomplete_weights_are_named(tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lacks vocab\.txt, face_detector\.onnx"):
        compile_bundle(tmp_path / "absent", tmp_path / "out.psamf")
    shutil.copytree(tiny_weights, tmp_path / "w")
    (tmp_path / "w" / "student.safetensors").unlink()
    with pytest.raises(UsageError, match=r"student\.safetensors"):
        compile_bundle(tmp_path / "w", tmp_path / "out.psamf")


def test_a_vocabulary_of_another_model_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_weights, tmp_path / "w")
    with open(tmp_path / "w" / "vocab.txt", "a") as file:
        file.write("extra\n")
    with pytest.raises(UsageError, match="entries"):
        compile_bundle(tmp_path / "w", tmp_path / "out.psamf")


@pytest.mark.parametrize("content", ["[]", "{", '{"metrics": 3}', '{"metrics": {"mae": NaN}}'])
def test_a_broken_training_record_is_refused(tiny_weights: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(tiny_weights, tmp_path / "w")
    (tmp_path / "w" / "training.json").write_text(content)
    with pytest.raises(UsageError, match=r"training\.json"):
        compile_bundle(tmp_path / "w", tmp_path / "out.psamf")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from psamf_edge.compile import command as module

    monkeypatch.setattr(module, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(MissingDependencyError, match=r"no_such_package.*psamf-edge\[compile\]"):
        compile_bundle(tmp_path, tmp_path / "out.psamf")


def test_a_missing_tensorrt_is_found_before_the_export(tiny_weights: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import of it fails
    lines = []
    with pytest.raises(MissingDependencyError, match="pip install tensorrt"):
        compile_bundle(tiny_weights, tmp_path / "out.psamf", "tensorrt", log=lines.append)
    assert lines == []


def test_the_command_speaks_on_stderr_only(tiny_weights, tiny_export, tmp_path, monkeypatch) -> None:
    from psamf_edge.compile.export import onnx_export

    monkeypatch.setattr(onnx_export, "export", lambda segment: tiny_export.models[segment.plan.name])
    output = tmp_path / "mine.psamf"
    result = CliRunner().invoke(command, [str(tiny_weights), "-o", str(output)], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, "")
    for word in ("text", "hidden", "cosine", "text.onnx", "MB", "cpu, int8"):
        assert word in result.stderr
    bundle = open_bundle(output)
    assert (bundle.name, bundle.precision) == ("mine", PRECISIONS["cpu"][0])
    assert json.loads((output / "manifest.json").read_text())["schema"] == "psamf-edge-bundle/1"
