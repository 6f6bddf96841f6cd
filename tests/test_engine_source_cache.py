"""Engines, timings and kernels that the cache keeps: damaged, stale, wanted by two processes, on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_tensorrt import VERSION, FakeTensorRT

pytest.importorskip("onnx")

from engine_runs import BOTH, built, entries, runs
from small_bundle import small_bundle

from psamf_edge.bundle import Bundle

CHILD = """
import sys, time
from pathlib import Path
import pytest
from fake_cuda import install_cuda_bindings
from fake_gpu import FakeGpu
from fake_tensorrt import FakeTensorRT
from small_bundle import expected, words
from psamf_edge.backends import engine_builder, open_backend
from psamf_edge.bundle import open_bundle

bundle, log, go = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
real = engine_builder.EngineBuilder.build

def build(self, model, name, *rest):
    with open(log, "a") as file:
        file.write(name + "\\n")
    print("building", flush=True)
    while not go.exists():
        time.sleep(0.01)
    return real(self, model, name, *rest)

engine_builder.EngineBuilder.build = build
with pytest.MonkeyPatch.context() as patch:
    gpu = FakeGpu()
    install_cuda_bindings(gpu, patch)
    FakeTensorRT(gpu).install(patch)
    print("starting", flush=True)
    with open_backend(open_bundle(bundle), "cuda") as backend:
        assert abs(backend.run(words(3, 9)).score - expected(3, 9)) < 1e-6
        print(backend.note, flush=True)
"""


def damage(path: Path, kind: str) -> None:
    """A file of the cache as it should not be."""
    content = path.read_bytes()
    if kind == "writable":
        path.chmod(0o666)
    elif kind == "foreign":
        (path.parent / "index.json").unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if kind == "truncated" else content[:-1] + b"?")


@pytest.mark.parametrize("kind", ["broken", "truncated", "foreign", "writable"])
def test_what_the_cache_should_not_give(bare: Bundle, gpu, trt, engine_cache: Path, kind: str) -> None:
    runs(bare)
    built(trt)
    damage(entries(engine_cache, "engine")[0], kind)
    note = runs(bare)
    assert len(built(trt)) == (2 if kind == "foreign" else 1)
    assert "since what the cache had does not serve: " in note
    assert {"foreign": "not one that this cache has written", "writable": "can be written by others"}.get(
        kind, "is damaged"
    ) in note
    assert note.count(". ") == 0  # one sentence
    assert runs(bare) is None
    assert built(trt) == []


def test_an_engine_of_the_cache_that_tensorrt_refuses(bare: Bundle, gpu, trt, monkeypatch) -> None:
    """As after an update of the driver, which no key knows of."""
    runs(bare)
    built(trt)
    trt.refuse_next = 2  # without the lock and with it
    assert "since what the cache had does not serve: TensorRT cannot load the engine of the segment text" in runs(bare)
    assert built(trt) == ["ids"]
    assert runs(bare) is None


def test_a_stale_engine_stays_for_who_has_the_old_version(bare: Bundle, gpu, trt, monkeypatch) -> None:
    runs(bare)
    built(trt)
    trt.install(monkeypatch, version="1.8.0")
    assert runs(bare).endswith("since those in the cache have the version 1.7.1, and 1.8.0 is due.")
    assert built(trt) == BOTH
    for version in (VERSION, "1.8.0"):
        trt.install(monkeypatch, version=version)
        assert runs(bare) is None
    assert built(trt) == []


def test_full_tensorrt_keeps_its_timings(tmp_path, gpu, monkeypatch, engine_cache: Path) -> None:
    trt = FakeTensorRT(gpu)
    trt.install(monkeypatch, "tensorrt")
    assert "2 engines" in runs(small_bundle(tmp_path / "a.psamf", "tensorrt"))
    after_text = b"ids took 3 us\n"
    assert trt.builder.timings == [b"", after_text]
    runs(small_bundle(tmp_path / "b.psamf", "tensorrt", "fp16"))  # the same layers have been timed
    assert trt.builder.timings[2] == after_text + b"pooled took 3 us\n"
    (path,) = entries(engine_cache, "timings")
    path.write_bytes(b"junk")  # which is refused, and costs time alone
    replaced = replace(small_bundle(tmp_path / "c.psamf", "tensorrt"), manifest_sha256="0" * 64)
    assert "the bundle carries none" in runs(replaced)
    assert trt.builder.timings[4] == b""


def test_rtx_keeps_the_kernels_that_it_has_compiled(bare: Bundle, gpu, trt, engine_cache: Path) -> None:
    runs(bare)
    assert [cache.compiled for cache in trt.runtime_caches] == [1, 1]
    kept = entries(engine_cache, "kernels")
    assert {path.read_bytes() for path in kept} == {b"kernels of ids", b"kernels of pooled"}
    before = [path.stat().st_ino for path in kept]
    runs(bare)
    assert [cache.compiled for cache in trt.runtime_caches] == [1, 1, 0, 0]
    assert [path.stat().st_ino for path in entries(engine_cache, "kernels")] == before  # and writes nothing twice
    kept[0].write_bytes(b"junk")
    assert runs(bare) is None  # which costs time alone
    assert sorted(cache.compiled for cache in trt.runtime_caches[4:]) == [0, 1]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_cache_is_said_once(bare: Bundle, gpu, trt, monkeypatch, code: int) -> None:
    def fail(*args) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    for _ in range(2):
        note = runs(bare)
        assert built(trt) == BOTH
        assert note.startswith(
            "TensorRT built 2 engines on this machine (text, fusion), since the bundle carries none. "
        )
        assert note.count(os.strerror(code)) == 1
        assert "set PSAMF_EDGE_CACHE to a directory" in note
    assert gpu.is_clean


def test_two_processes_build_once(bare: Bundle, tmp_path: Path, engine_cache: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PSAMF_EDGE_CACHE": str(engine_cache)}
    log, go = tmp_path / "log", tmp_path / "go"

    def start() -> subprocess.Popen:
        command = [sys.executable, "-c", CHILD, bare.path, log, go]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdout.readline() == "starting\n"
        return child

    first = start()
    assert first.stdout.readline() == "building\n"
    second = start()  # while the first one holds the lock
    go.touch()
    said = [child.communicate(timeout=120)[0].splitlines() for child in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sorted(log.read_text().split()) == ["fusion", "text"]
    assert sum("building" in line for lines in said for line in lines) == 1  # the one that was read above not counted
    assert len(entries(engine_cache, "engine")) == 2


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_one_that_is_killed_while_it_builds_leaves_the_work_to_the_next(bare, tmp_path, engine_cache, gpu, trt) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PSAMF_EDGE_CACHE": str(engine_cache)}
    log, go = tmp_path / "log", tmp_path / "go"
    command = [sys.executable, "-c", CHILD, bare.path, log, go]
    children = []
    for said in ("building\n", ""):  # the second one waits for the lock that the first one holds
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        assert children[-1].stdout.readline() == "starting\n"
        if said:
            assert children[-1].stdout.readline() == said
    children[0].kill()
    children[0].communicate()
    go.touch()
    assert "2 engines on this machine (text, fusion)" in children[1].communicate(timeout=120)[0]
    assert children[1].returncode == 0
    assert log.read_text().split() == ["text", "text", "fusion"]
    assert len(entries(engine_cache, "engine")) == 2
    assert not list((engine_cache / "engines").glob(".part-*"))
    assert runs(bare) is None


@pytest.mark.parametrize("kind", ["broken", "truncated", "foreign", "writable"])
def test_kernels_of_the_cache_that_do_not_serve_cost_time_alone(bare, gpu, trt, engine_cache: Path, kind: str) -> None:
    runs(bare)
    path = entries(engine_cache, "kernels")[0]
    damage(path, kind)
    note = runs(bare)
    if kind == "foreign":
        assert "not one that this cache has written" in note  # which the engines are then, too
    else:
        assert note is None
    assert sum(cache.compiled for cache in trt.runtime_caches[2:]) == (2 if kind == "foreign" else 1)
    assert runs(bare) is None
    assert sum(cache.compiled for cache in trt.runtime_caches[-2:]) == 0  # they were kept again


@pytest.mark.parametrize("kind", ["broken", "truncated", "foreign", "writable"])
def test_timings_of_the_cache_that_do_not_serve_cost_time_alone(tmp_path, gpu, monkeypatch, engine_cache, kind) -> None:
    trt = FakeTensorRT(gpu)
    trt.install(monkeypatch, "tensorrt")
    runs(small_bundle(tmp_path / "a.psamf", "tensorrt"))
    damage(entries(engine_cache, "timings")[0], kind)
    runs(small_bundle(tmp_path / "b.psamf", "tensorrt", "fp16"))
    assert trt.builder.timings[2] == b""
    runs(replace(small_bundle(tmp_path / "c.psamf", "tensorrt"), manifest_sha256="0" * 64))
    assert trt.builder.timings[4] == b"ids took 3 us\npooled took 3 us\n"


def test_a_cache_that_others_may_write_is_not_used(bare: Bundle, gpu, trt, engine_cache: Path) -> None:
    if not hasattr(os, "geteuid"):
        pytest.skip("Windows has no modes")
    runs(bare)
    built(trt)
    engine_cache.chmod(0o777)
    note = runs(bare)
    assert built(trt) == BOTH
    assert "can be written by others" in note
    shutil.rmtree(engine_cache)
