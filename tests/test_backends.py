"""The plan and the ONNX Runtime backend, against the student in PyTorch and against the definitions."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psamf_edge.backends import open_backend
from psamf_edge.bundle import open_bundle
from psamf_edge.errors import InputError, IntegrityError, MissingDependencyError, PsamfError, UsageError
from psamf_edge.plan import Features, check_plan, confidence, presence_rows

PRESENCES = [names for count in (1, 2, 3) for names in itertools.combinations(("text", "audio", "face"), count)]


def features(bundle, present=("text", "audio", "face"), seed: int = 0, sizes=(9, 203, 31)) -> Features:
    """Random features of an utterance: token ids, normal voice and face steps."""
    rng, shapes = np.random.default_rng(seed), bundle.shapes
    return Features(
        rng.integers(0, shapes.vocabulary, sizes[0]) if "text" in present else None,
        rng.standard_normal((sizes[1], shapes.audio_features), np.float32) if "audio" in present else None,
        rng.standard_normal((sizes[2], shapes.face_features), np.float32) if "face" in present else None,
    )


@pytest.fixture(scope="module")
def backend(tiny_bundle):
    with open_backend(tiny_bundle, "cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def student(tiny_weights):
    from psamf_edge.compile.model.student import load_student

    return load_student(tiny_weights)


def reference_score(student, given: Features, present: tuple[str, ...]) -> tuple[float, float]:
    """Score and log-scale of one subset from one whole pass in PyTorch, a missing modality being absent and masked."""
    import torch

    config = student.config
    ids = torch.zeros(1, 1, dtype=torch.int64) if given.ids is None else torch.from_numpy(given.ids)[None]
    steps = []
    for values, width in ((given.audio, config.audio_features), (given.face, config.face_features)):
        steps.append(torch.zeros(1, 1, width) if values is None else torch.from_numpy(values)[None])
    text_mask, audio_mask, face_mask = (
        torch.full(x.shape[:2], float(name in present))
        for name, x in zip(("text", "audio", "face"), (ids, *steps), strict=True)
    )
    mask = torch.tensor([[[float(name in present) for name in ("text", "audio", "face")]]])
    with torch.inference_mode():
        out = student(ids, text_mask, steps[0], audio_mask, steps[1], face_mask, mask)
    return float(out.score.clamp(-3, 3)), float(out.log_scale)


@pytest.mark.parametrize("present", PRESENCES, ids="+".join)
def test_equals_pytorch_for_every_presence(tiny_bundle, backend, student, present: tuple[str, ...]) -> None:
    given = features(tiny_bundle, present)
    got = backend.run(given)
    score, log_scale = reference_score(student, given, present)
    tolerance = 2e-5  # float32, sums in another order, over some twenty layers
    assert got.score == pytest.approx(score, abs=tolerance)
    assert got.confidence == pytest.approx(1 - 0.5 * math.exp(-abs(score) / math.exp(log_scale)), abs=tolerance)
    assert list(got.contributions) == list(present)
    for name, contribution in got.contributions.items():
        rest = tuple(other for other in present if other != name)
        without = reference_score(student, given, rest)[0] if rest else 0.0
        assert contribution == pytest.approx(score - without, abs=2 * tolerance)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 7, 3), (128, 3000, 300)], ids=str)
def test_least_and_greatest_sizes(tiny_bundle, backend, student, sizes: tuple[int, int, int]) -> None:
    given = features(tiny_bundle, sizes=sizes)
    assert backend.run(given).score == pytest.approx(reference_score(student, given, given.present)[0], abs=2e-5)


def test_the_same_features_give_the_same_bits(tiny_bundle, backend) -> None:
    given = features(tiny_bundle)
    first = backend.run(given)
    backend.run(features(tiny_bundle, ("audio",), seed=1))
    assert backend.run(given) == first


def test_other_number_types_are_taken(tiny_bundle, backend) -> None:
    given = features(tiny_bundle)
    other = Features(given.ids.astype(np.int32), given.audio.astype(np.float64), np.asfortranarray(given.face))
    assert backend.run(other) == backend.run(given)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("modality", ["audio", "face"])
def test_a_value_that_is_no_number_is_named(tiny_bundle, backend, modality: str, value: float) -> None:
    given = features(tiny_bundle)
    getattr(given, modality)[3, 5] = value
    with pytest.raises(InputError, match=f"The {modality} has .* in 1 of"):
        backend.run(given)


def test_huge_features_give_a_score_all_the_same(tiny_bundle, backend) -> None:
    given = features(tiny_bundle)
    given.audio[:] = 3e38  # the encoder clamps what it normalises
    assert -3 <= backend.run(given).score <= 3


@pytest.mark.parametrize(
    "change",
    [
        {"ids": np.zeros((1, 4), np.int64)},
        {"ids": np.zeros(0, np.int64)},
        {"ids": np.zeros(129, np.int64)},
        {"ids": np.zeros(4, np.float32)},
        {"ids": np.array([-1])},
        {"ids": np.array([10**6])},
        {"audio": np.zeros((0, 63), np.float32)},
        {"audio": np.zeros((5, 62), np.float32)},
        {"audio": np.zeros(63, np.float32)},
        {"audio": np.zeros((3001, 63), np.float32)},
        {"face": np.zeros((5, 1), np.float32)},
    ],
    ids=lambda change: "-".join(f"{name}{value.shape}" for name, value in change.items()),
)
def test_wrong_shapes_are_named(tiny_bundle, backend, change: dict) -> None:
    name = {"ids": "text"}.get(next(iter(change)), next(iter(change)))
    with pytest.raises(InputError, match=f"The {name} has .* allowed"):
        backend.run(replace(features(tiny_bundle), **change))


def test_nothing_present(backend) -> None:
    with pytest.raises(InputError, match="nothing to score"):
        backend.run(Features())


def test_presence_rows_hold_the_full_set_and_then_each_left_out() -> None:
    assert presence_rows(("text", "audio", "face")).tolist() == [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert presence_rows(("text", "face")).tolist() == [[1, 0, 1], [0, 0, 1], [1, 0, 0]]
    assert presence_rows(("audio",)).tolist() == [[0, 1, 0]]


@given(st.floats(-3, 3), st.floats(allow_nan=False))
def test_confidence_is_a_probability_above_one_half(score: float, log_scale: float) -> None:
    value = confidence(score, log_scale)
    assert 0.5 <= value <= 1.0
    assert confidence(-score, log_scale) == value


def test_confidence_is_the_laplace_probability_of_the_sign() -> None:
    rng = np.random.default_rng(0)
    for score, scale in ((0.5, 0.7), (-2.0, 1.5), (0.0, 1.0)):
        truth = score + rng.laplace(0.0, scale, 400_000)
        share = np.mean(truth > 0) if score >= 0 else np.mean(truth < 0)
        assert confidence(score, math.log(scale)) == pytest.approx(share, abs=0.004)  # 5 sigma of 400,000 draws


def test_devices(tiny_bundle) -> None:
    with open_backend(tiny_bundle) as opened:
        assert (opened.name, opened.precision, opened.note) == ("onnxruntime", "fp32", None)
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        open_backend(tiny_bundle, "gpu")
    with pytest.raises(UsageError, match="threads"):
        open_backend(tiny_bundle, "cpu", threads=0)


def test_cuda_never_falls_back_in_silence(tiny_bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match="onnxruntime-gpu") as caught:
        open_backend(tiny_bundle, "cuda")
    assert caught.value.exit_code == 3
    # a build with CUDA on a machine without a GPU: ONNX Runtime opens a session on the CPU and says nothing
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(MissingDependencyError, match="nvidia-smi"),
    ):
        open_backend(tiny_bundle, "cuda")
    with pytest.raises(UsageError, match="int8 operators do not exist on a GPU"):
        open_backend(replace(tiny_bundle, precision="int8"), "cuda")


def test_a_closed_backend_says_so(tiny_bundle) -> None:
    opened = open_backend(tiny_bundle, "cpu")
    opened.close()
    opened.close()
    with pytest.raises(UsageError, match="closed"):
        opened.run(features(tiny_bundle))


@pytest.mark.parametrize("name", ["text.onnx", "fusion.onnx"])
def test_a_flipped_byte_never_reaches_onnxruntime(tiny_bundle, tmp_path, name: str) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "b.psamf")
    content = bytearray((tmp_path / "b.psamf" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b.psamf" / name).write_bytes(content)
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_backend(open_bundle(tmp_path / "b.psamf"), "cpu")


def test_a_plan_with_a_gap_is_refused(tiny_bundle) -> None:
    with pytest.raises(IntegrityError, match="segment fusion needs hidden"):
        check_plan(replace(tiny_bundle, plan=tiny_bundle.plan[1:]))
    with pytest.raises(IntegrityError, match="score and log_scale"):
        check_plan(replace(tiny_bundle, plan=tiny_bundle.plan[:-1]))


def test_a_valid_manifest_over_a_file_that_is_no_model(tiny_bundle, tmp_path) -> None:
    import hashlib

    shutil.copytree(tiny_bundle.path, tmp_path / "b.psamf")
    raw = json.loads((tmp_path / "b.psamf" / "manifest.json").read_text())
    (tmp_path / "b.psamf" / "text.onnx").write_bytes(b"not a model")
    raw["files"]["text.onnx"] = {"sha256": hashlib.sha256(b"not a model").hexdigest(), "size": 11}
    (tmp_path / "b.psamf" / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(PsamfError) as caught:
        open_backend(open_bundle(tmp_path / "b.psamf"), "cpu")
    assert caught.value.exit_code == 4
