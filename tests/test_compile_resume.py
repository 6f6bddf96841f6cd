"""A compile that is killed goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.bundle import open_bundle
from psamf_edge.compile import work as work_module
from psamf_edge.compile.command import compile_bundle
from psamf_edge.compile.export import onnx_export
from psamf_edge.compile.work import Work
from psamf_edge.errors import UsageError

# Loads what costs time once; then one child for each stage dies without a word in the middle of writing it or right
# after, the last one in the middle of packing; and a last child ends well.
KILLED = """
import os, signal, sys
from pathlib import Path
import onnx
from psamf_edge.compile import command, work
from psamf_edge.compile.export import onnx_export, pack
from psamf_edge.compile.quality import stages

weights, models, output, when = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
onnx_export.export = lambda segment: onnx.load(models / f"{segment.plan.name}.onnx")
logs = Path(output.parent / "logs")
logs.mkdir()

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def run(stage):
    lines = open(logs / f"{stage}.txt", "w", buffering=1)
    write = work.Work._write
    def deadly(self, name, digest, files):
        if name == stage:  # some files of the stage are there, its record is not
            half = dict(list(files.items())[:1])
            target = self.folder / f"{name}-half.new"
            target.mkdir()
            for file, data in half.items():
                (target / file).write_bytes(data[: len(data) // 2])
            die()
        write(self, name, digest, files)
        if stage == f"after {name}":
            die()
    work.Work._write = deadly
    if stage == "pack":
        pack.os.rename = lambda *paths: die()
    command.compile_bundle(weights, output, "cpu", "int8", name="tiny", log=lambda line: print(line, file=lines))

for stage in [*when, "none"]:
    child = os.fork()
    if child == 0:
        try:
            run(stage)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    print(stage, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def reused(log: str) -> int:
    return log.count("finished before")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children that it forks")
def test_killed_at_every_stage_it_ends_with_the_same_bytes(tiny_weights, tiny_export, compile_tiny, tmp_path) -> None:
    whole = compile_tiny("cpu", "int8")
    models = tmp_path / "models"
    models.mkdir()
    for name, model in tiny_export.models.items():
        (models / f"{name}.onnx").write_bytes(model.SerializeToString())
    stages = ["export-text", "after export-text", "export-face", "after export-fusion", "lower", "after lower", "data",
              "judge", "after judge", "pack"]  # fmt: skip
    output = tmp_path / "out.psamf"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_weights), str(models), str(output), *stages],
        capture_output=True,
        text=True,
        timeout=600,
    )
    ends = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert ends == {**dict.fromkeys(stages, "-9"), "none": "0"}, done.stderr
    logs = {stage: (tmp_path / "logs" / f"{stage}.txt").read_text() for stage in (*stages, "none")}
    counts = [reused(logs[stage]) for stage in (*stages, "none")]
    assert counts == [0, 0, 1, 2, 4, 4, 5, 5, 6, 7, 7]  # what was finished before, the last time or earlier
    assert open_bundle(output).manifest_sha256 == whole.manifest_sha256  # which holds the hash of every file
    open_bundle(output).verify()
    assert {path.name for path in tmp_path.iterdir()} == {"models", "logs", "out.psamf"}  # no work is left over


@pytest.fixture
def quick(tiny_export, monkeypatch):
    calls = []

    def export(segment):
        calls.append(segment.plan.name)
        return tiny_export.models[segment.plan.name]

    monkeypatch.setattr(onnx_export, "export", export)
    return calls


class StopError(Exception):
    """Ends a compile from outside."""


def interrupted(tiny_weights, output, monkeypatch, at: str) -> None:
    with monkeypatch.context() as patch:
        write = Work._write

        def stop(self, name, digest, files):
            if name == at:
                raise StopError
            write(self, name, digest, files)

        patch.setattr(Work, "_write", stop)
        with pytest.raises(StopError):
            compile_bundle(tiny_weights, output, "cpu", "fp32", name="tiny")


def test_other_inputs_or_options_are_not_taken_for_the_same(quick, tiny_weights, compile_tiny, tmp_path, monkeypatch):
    output, lines = tmp_path / "out.psamf", []
    interrupted(tiny_weights, output, monkeypatch, "judge")
    bundle = compile_bundle(tiny_weights, output, "cpu", "int8", name="tiny", log=lines.append)
    assert reused("\n".join(lines)) == 5  # the exports and the data to check with, but not what was lowered
    assert bundle.manifest_sha256 == compile_tiny("cpu", "int8").manifest_sha256

    other = tmp_path / "weights"
    shutil.copytree(tiny_weights, other)
    (other / "student.json").write_text((other / "student.json").read_text() + "\n")  # any byte of them counts
    interrupted(tiny_weights, tmp_path / "b.psamf", monkeypatch, "judge")
    lines.clear()
    quick.clear()
    compile_bundle(other, tmp_path / "b.psamf", "cpu", "fp32", log=lines.append)
    assert reused("\n".join(lines)) == 1
    assert quick == ["text", "audio", "face", "fusion"]


def test_a_stage_whose_file_is_not_as_it_was_is_done_again(quick, tiny_weights, tiny_bundle, tmp_path, monkeypatch):
    output = tmp_path / "out.psamf"
    interrupted(tiny_weights, output, monkeypatch, "lower")
    model = tmp_path / ".out.psamf.work" / "export-face" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    (tmp_path / ".out.psamf.work" / "export-audio" / "stage.json").write_text("[")
    quick.clear()
    bundle = compile_bundle(tiny_weights, output, "cpu", "fp32", name="tiny")
    assert quick == ["audio", "face"]
    assert bundle.manifest_sha256 == tiny_bundle.manifest_sha256


def test_two_at_once(tmp_path: Path) -> None:
    if work_module.fcntl is None:
        pytest.skip("no file locks here")
    first = Work(tmp_path / "out.psamf")
    with pytest.raises(UsageError, match="Another process"):
        Work(tmp_path / "out.psamf")
    Work(tmp_path / "other.psamf").close(done=True)
    first.close(done=True)
    Work(tmp_path / "out.psamf").close(done=True)
    assert list(tmp_path.iterdir()) == []


def test_a_work_folder_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / ".out.psamf.work").write_text("mine")
    with pytest.raises(UsageError, match="in the way"):
        Work(tmp_path / "out.psamf")
    (tmp_path / "target").mkdir()
    (tmp_path / ".b.psamf.work").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match="in the way"):
        Work(tmp_path / "b.psamf")


def test_stages_keep_their_files_by_key_and_tell_what_is_left(tmp_path: Path, monkeypatch) -> None:
    clock = iter(range(0, 1000, 10))  # ten seconds between any two readings
    monkeypatch.setattr(work_module.time, "perf_counter", lambda: next(clock))
    lines: list[str] = []
    work = Work(tmp_path / "out", lines.append, {"one": 5.0, "two": 10.0, "three": 1.0})
    made = []

    def make(content: bytes):
        return lambda: made.append(content) or {"file": content}

    assert work.once("one", "one", {"a": 1, "b": 2}, make(b"x")) == {"file": b"x"}
    assert work.once("one again", "one", {"b": 2, "a": 1}, make(b"y")) == {"file": b"x"}
    assert work.once("two", "one", {"a": 2, "b": 2}, make(b"z")) == {"file": b"z"}
    assert made == [b"x", b"z"]
    assert lines[0] == "[1/3] one ..."
    assert lines[3] == "    10.0 s, finished before"
    assert lines[4] == "[3/4] two ...   about 22 s left"  # 11 to do, of 16; the first 5 took 10 s
    work.close(done=False)
    assert json.loads((tmp_path / ".out.work" / "one" / "stage.json").read_text())["files"]
    again = Work(tmp_path / "out")
    assert again.once("t", "one", {"a": 2, "b": 2}, make(b"w")) == {"file": b"z"}
    again.close(done=True)
