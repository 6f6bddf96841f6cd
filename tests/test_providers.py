"""ONNX Runtime's providers for a GPU, with a stand-in: a list of providers, and sessions that run on the CPU."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort
import pytest
from click.testing import CliRunner
from small_bundle import expected, small_bundle, words

from psamf_edge.backends import ONNXRUNTIME_GPU, open_backend, providers, sessions
from psamf_edge.cli import main
from psamf_edge.engine_cache import VARIABLE, EngineCache
from psamf_edge.errors import IntegrityError, MissingDependencyError, UsageError

CUDA, TENSORRT = ONNXRUNTIME_GPU
GPU_BUILD = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


class Opened:
    """What was asked for, session by session; `takes` are the providers that a session reports."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list]] = []
        self.takes = None

    def open_session(self, content: bytes, name: str, threads: int = 1, given=None, *rest, **options):
        session = sessions.open_session(content, name, threads)
        if given is not None:
            self.asked.append((name, given))
            session.get_providers = lambda: self.takes or [provider for provider, _ in given]
        return session

    def options(self, provider: str) -> list[dict[str, str]]:
        return [dict(given)[provider] for _, given in self.asked]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Opened:
    opened = Opened()
    monkeypatch.setattr(ort, "get_available_providers", lambda: GPU_BUILD)
    monkeypatch.setattr(providers, "open_session", opened.open_session)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return opened


@pytest.mark.parametrize(("device", "order"), [(CUDA, GPU_BUILD[1:]), (TENSORRT, GPU_BUILD), ("cuda", GPU_BUILD[1:])])
def test_providers_in_their_order(gpu: Opened, tmp_path: Path, device: str, order: list[str]) -> None:
    bundle = small_bundle(tmp_path / "b.psamf", "cpu")
    with open_backend(bundle, device) as backend:
        assert backend.run(words(1, 2)).score == pytest.approx(expected(1, 2))
        assert backend.name == (CUDA if device == "cuda" else device)
    assert [name for name, _ in gpu.asked] == ["text.onnx", "fusion.onnx"]
    assert [[provider for provider, _ in given] for _, given in gpu.asked] == [order, order]


def test_a_bundle_made_for_tensorrt_runs_through_onnxruntime(gpu: Opened, tmp_path: Path) -> None:
    """In the file's own types: a switch for one precision ends the strong typing of TensorRT's network."""
    with open_backend(small_bundle(tmp_path / "b.psamf", "tensorrt", "fp16"), TENSORRT) as backend:
        assert backend.run(words(3)).score == pytest.approx(expected(3))
    given = gpu.options("TensorrtExecutionProvider")
    assert len(given) == 2
    assert not [name for options in given for name in options if name in ("trt_fp16_enable", "trt_int8_enable")]


def test_engines_are_kept_in_the_users_own_cache(gpu: Opened, tmp_path: Path) -> None:
    first, second = small_bundle(tmp_path / "a.psamf", "cpu"), small_bundle(tmp_path / "b.psamf", "cpu")
    second = replace(second, manifest_sha256="0" * 64)  # other weights
    for bundle in (first, first, second):
        open_backend(bundle, TENSORRT).close()
    options = gpu.options("TensorrtExecutionProvider")
    folders = [Path(each["trt_engine_cache_path"]) for each in options]
    assert all(each["trt_engine_cache_enable"] == each["trt_timing_cache_enable"] == "1" for each in options)
    assert [each["trt_timing_cache_path"] for each in options] == [str(folder) for folder in folders]
    assert folders[:2] == folders[2:4]  # the same model finds its engines again
    assert len(set(folders)) == 4  # ONNX Runtime names engines after the graph: neither weights nor segments may mix
    for folder in folders:
        assert folder.is_relative_to(tmp_path / "cache")
        assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)] == [0o700, 0o700]


def test_engines_are_built_once_for_all_lengths(gpu: Opened, tmp_path: Path) -> None:
    open_backend(small_bundle(tmp_path / "b.psamf", "cpu"), TENSORRT).close()
    text, fusion = gpu.options("TensorrtExecutionProvider")
    assert text["trt_profile_min_shapes"] == "ids:1x1,text_mask:1x1"
    assert text["trt_profile_opt_shapes"] == "ids:1x50,text_mask:1x50"
    assert text["trt_profile_max_shapes"] == "ids:1x128,text_mask:1x128"
    assert fusion["trt_profile_max_shapes"] == "pooled:1x1,present:1x4x3"


def test_without_a_cache_of_ones_own_nothing_is_kept(gpu: Opened, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "libraries").symlink_to(tmp_path)  # somebody else's place
    assert EngineCache().folder("x") is None
    open_backend(small_bundle(tmp_path / "b.psamf", "cpu"), TENSORRT).close()
    assert not any("trt_engine_cache_path" in options for options in gpu.options("TensorrtExecutionProvider"))


@pytest.mark.parametrize("device", ONNXRUNTIME_GPU)
def test_a_provider_that_is_not_taken_is_an_error(gpu: Opened, tmp_path: Path, device: str) -> None:
    bundle = small_bundle(tmp_path / "b.psamf", "cpu")
    gpu.takes = ["CPUExecutionProvider"]  # as ONNX Runtime does where a library of CUDA is missing
    with pytest.raises(MissingDependencyError, match=r"segment text on a GPU.*nvidia-smi"):
        open_backend(bundle, device)


def test_a_provider_that_fails_is_an_error(gpu: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **options):
        raise IntegrityError("not loaded") from RuntimeError("libcudnn.so.9 is missing")

    monkeypatch.setattr(providers, "open_session", fail)
    with pytest.raises(MissingDependencyError, match=r"libcudnn\.so\.9 is missing"):
        open_backend(small_bundle(tmp_path / "b.psamf", "cpu"), CUDA)


@pytest.mark.parametrize("device", ONNXRUNTIME_GPU)
def test_a_bundle_quantised_for_the_cpu_is_refused(gpu: Opened, tmp_path: Path, device: str) -> None:
    with pytest.raises(UsageError, match="int8 operators do not exist on a GPU"):
        open_backend(small_bundle(tmp_path / "b.psamf", "cpu", "int8"), device)


@pytest.mark.parametrize("device", ["cuda", *ONNXRUNTIME_GPU])
def test_so_is_the_default_one_before_anything_has_to_be_installed(device: str) -> None:
    done = CliRunner().invoke(main, ["infer", "--text", "Good.", "--device", device])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"compile {'--target rtx' if device == 'cuda' else '--target cpu --precision fp32'}`" in done.stderr


@pytest.mark.parametrize("device", ONNXRUNTIME_GPU)
def test_a_build_without_the_provider_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match=r"has no .*pip install onnxruntime-gpu"):
        open_backend(small_bundle(tmp_path / "b.psamf", "cpu"), device)


def test_onnxruntimes_own_fallback_is_off(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "b.psamf", "cpu")
    session = sessions.open_session(bundle.read("text.onnx"), "text.onnx")
    assert session._enable_fallback is False  # at a failure it would print to stdout and go on with another provider
