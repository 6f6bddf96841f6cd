"""Which GPU an engine is for, what happens on one that TensorRT does not serve, and how long TensorRT's builder lives.

Before the stand-in, as in test_engine_source.py.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_tensorrt import VERSION, FakeTensorRT

pytest.importorskip("onnx")

from small_bundle import small_bundle
from test_engine_source import BOTH, ORIGIN, built, entries, runs

from psamf_edge.backends import open_backend
from psamf_edge.backends.engine_builder import BuildOptions
from psamf_edge.backends.engine_source import EngineSource
from psamf_edge.bundle import Bundle, EngineOrigin, open_bundle
from psamf_edge.engine_cache import EngineCache, key_of
from psamf_edge.errors import MissingDependencyError


def made_for(cache: Path) -> list[dict]:
    """Of each engine in the cache."""
    index = json.loads((cache / "engines" / "index.json").read_text())
    return [entry["made_for"] for name, entry in index.items() if name.endswith(".engine")]


def test_full_tensorrt_builds_for_one_model_of_gpu(tmp_path, gpu, monkeypatch, engine_cache: Path) -> None:
    """All boards with an Orin have the capability 8.7 and the name Orin, and their GPUs differ."""
    trt = FakeTensorRT(gpu)
    trt.install(monkeypatch, "tensorrt")
    bundle = small_bundle(tmp_path / "b.psamf", "tensorrt")
    runs(bundle)
    assert built(trt) == BOTH
    gpu.multiprocessors = 8
    assert runs(bundle).endswith(
        "since those in the cache have the model Orin with 16 multiprocessors, and Orin with 8 multiprocessors is due."
    )
    assert built(trt) == BOTH
    assert trt.builder.timings[2] == b""  # nor has anything been timed on it
    for gpu.multiprocessors in (16, 8):
        assert runs(bundle) is None
    gpu.name = "NVIDIA L4"
    assert runs(bundle).endswith("Orin with 16 multiprocessors, and NVIDIA L4 with 8 multiprocessors is due.")


def test_engines_of_rtx_serve_other_models(bare: Bundle, gpu, trt, engine_cache: Path) -> None:
    runs(bare)
    gpu.multiprocessors = 8
    assert runs(bare) is None
    assert not any("model" in each for each in made_for(engine_cache))  # so that a cache of before serves as well


def test_full_engines_of_the_bundle_are_for_one_model_of_gpu(tmp_path, gpu, monkeypatch) -> None:
    FakeTensorRT(gpu).install(monkeypatch, "tensorrt")
    origin = EngineOrigin("tensorrt", VERSION, "the stand-in", "8.7", model=gpu.model)
    bundle = small_bundle(tmp_path / "b.psamf", "tensorrt", engines=origin)
    assert runs(bundle) is None
    gpu.multiprocessors = 8
    assert runs(bundle).endswith(
        "since those of the bundle are for Orin with 16 multiprocessors, and this GPU is Orin with 8 multiprocessors."
    )


def test_engines_of_before_that_name_no_model(tmp_path, gpu, monkeypatch, engine_cache: Path) -> None:
    """What versions wrote that did not know of models: neither bundle nor cache serves, and each says so once."""
    trt = FakeTensorRT(gpu)
    trt.install(monkeypatch, "tensorrt")
    path = small_bundle(tmp_path / "b.psamf", "tensorrt", engines=replace(ORIGIN, flavour="tensorrt")).path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["engines"] = {"flavour": "tensorrt", "version": VERSION, "devices": "Orin", "capability": "8.7"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    bundle = open_bundle(path)
    note = "since those of the bundle are for a GPU that their manifest does not name, and this GPU is Orin with"
    assert note in runs(bundle)
    assert built(trt) == BOTH
    assert runs(bundle) is None
    engines = made_for(engine_cache)
    for entry in engines:
        del entry["model"]
    shutil.rmtree(engine_cache)
    cache = EngineCache()
    with cache.lock():
        for entry in engines:
            cache.put(f"{key_of(entry)}.engine", b"of another GPU", entry)
    assert runs(bundle).endswith("those in the cache have the model unknown, and Orin with 16 multiprocessors is due.")
    assert built(trt) == BOTH
    assert runs(bundle) is None


def test_turing_has_engines_of_its_own(tmp_path, gpu, trt) -> None:
    """TensorRT-RTX builds for 8.6 and later unless it is told to build for 7.5, and then for that alone."""
    gpu.capability = (7, 5)
    bundle = small_bundle(tmp_path / "b.psamf", engines=ORIGIN)  # as `compile` makes them
    assert "text.engine of the bundle does not load here" in runs(bundle)
    assert built(trt) == BOTH
    assert runs(bundle) is None
    gpu.capability = (8, 6)
    assert runs(bundle) is None  # the bundle's
    assert built(trt) == []


def test_what_is_built_and_does_not_load_is_not_kept(bare, gpu, trt, engine_cache: Path) -> None:
    """No file is damaged: this GPU is none that this TensorRT serves, as 9.0 may be for TensorRT-RTX."""
    trt.refuse, gpu.capability = "engine", (9, 0)
    said = r"compute capability 9\.0, .* tensorrt_rtx 1\.7\.1 .* segment text: 1: the magic tag does not match"
    with pytest.raises(MissingDependencyError, match=said):
        open_backend(bare, "cuda")
    with open_backend(bare, "auto") as backend:
        assert backend.name == "onnxruntime"
        assert re.search(said, backend.note)
    assert not entries(engine_cache, "engine")
    assert gpu.is_clean


def test_an_engine_that_does_not_run_here(bare, gpu, trt) -> None:
    """TensorRT-RTX compiles an engine's kernels for the GPU with its first context."""
    trt.refuse = "context"
    with pytest.raises(MissingDependencyError, match="cannot run the engine of the segment text on this GPU"):
        open_backend(bare, "cuda")
    with open_backend(bare, "auto") as backend:
        assert backend.name == "onnxruntime"
    assert gpu.is_clean


def test_a_runtime_that_does_not_start(bare: Bundle, gpu, trt) -> None:
    """As where TensorRT's CUDA is newer than the driver's: the bindings say no more than that they got a nullptr."""
    trt.refuse = "runtime"
    with pytest.raises(MissingDependencyError, match=r"runtime of tensorrt_rtx .*CUDA initialization failure"):
        open_backend(bare, "cuda")
    with open_backend(bare, "auto") as backend:
        assert backend.name == "onnxruntime"
        assert "CUDA initialization failure" in backend.note
    assert gpu.is_clean


def test_the_builder_goes_with_the_last_engine(bare, gpu, trt) -> None:
    """It holds memory of the device, and needs the context that the driver gives up."""
    with open_backend(bare, "cuda"):
        assert built(trt) == BOTH
        assert not trt.builder.alive


def test_a_source_that_is_closed_has_no_builder(bare, gpu, trt) -> None:
    """Where the second engine fails, the first one's builder is not there any more when the context goes."""
    source = EngineSource(bare, sys.modules["tensorrt_rtx"], (8, 7), gpu.model, EngineCache(), BuildOptions())
    source.engine(bare.plan[0], lambda *given: SimpleNamespace(compiled_kernels=lambda: None))
    assert len(trt.builder.alive) == 1
    source.close()
    assert not trt.builder.alive
