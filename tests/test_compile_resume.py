"""A compile that is killed goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.bundle import Bundle, open_bundle
from psamf_edge.compile import lock as lock_module
from psamf_edge.compile import work as work_module
from psamf_edge.compile.command import compile_bundle
from psamf_edge.compile.export import onnx_export
from psamf_edge.compile.quality.bounds import MAX_GAP
from psamf_edge.compile.work import Work
from psamf_edge.errors import UsageError

PROGRAM = Path(__file__).parent / "killed_compile.py"
MIXED = {"gap": 1e-3, "mixed": True, "report": True}
RTX = {"target": "rtx", "precision": "fp16"}
SCENES = {
    "plain": {"moments": ["export-text", "after export-text", "export-face", "after export-fusion", "quantise", "lower",
                          "after lower", "data", "judge", "after judge", "pack", "rename"]},
    "packed": {"moments": ["rename", "packed"]},
    "clearing": {"moments": ["rename", "clearing"]},
    "replaced": {"moments": ["lower", "pack", "rename", "exchange"], "force": True},
    "mixed whole": MIXED,
    "mixed": MIXED | {"moments": ["judge", "search", "after search", "mend", "after mend", "report", "pack"]},
    "rtx whole": RTX,
    "rtx": RTX | {"moments": ["engine-text", "after engine-text", "engine-fusion", "after engine-fusion", "pack"]},
}  # fmt: skip
USUAL = {"moments": [], "target": "cpu", "precision": "int8", "gap": MAX_GAP, "mixed": False, "report": False,
         "force": False}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What was left of one: the folder, the log after each moment, and whether there was a bundle then."""

    folder: Path
    logs: dict[str, str]
    there: dict[str, bool]

    @property
    def bundle(self) -> Bundle:
        return open_bundle(self.folder / "out.psamf")

    @property
    def content(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*.*")
                if path.is_file()}  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tiny_weights, tiny_export, tiny_bundle, tmp_path_factory) -> dict[str, Scene]:
    """Every scene, played in one process: what it imports takes longer than what it does."""
    if not hasattr(os, "fork"):
        pytest.skip("kills children that it forks")
    root, models, temporary = (tmp_path_factory.mktemp(name) for name in ("scenes", "models", "temporary"))
    for name, model in tiny_export.models.items():
        (models / f"{name}.onnx").write_bytes(model.SerializeToString())
    has_rtx = importlib.util.find_spec("tensorrt_rtx") is not None
    played = {name: USUAL | how for name, how in SCENES.items() if has_rtx or not name.startswith("rtx")}
    shutil.copytree(tiny_bundle.path, root / "replaced" / "out.psamf")
    done = subprocess.run(
        [sys.executable, PROGRAM, tiny_weights, models, root, json.dumps(played)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    wanted = [[name, moment, -9] for name, how in played.items() for moment in how["moments"]]
    wanted.append(["two", "second", 2])
    assert [end[:3] for end in ends if end[1] != "none"] == wanted, done.stderr
    assert [end[:3] for end in ends if end[1] == "none"] == [[name, "none", 0] for name in (*played, "two")], (
        done.stderr
    )
    played["two"] = {"moments": ["second"]}
    (root / "two-none.txt").touch()
    assert names(temporary) <= {".ses"}  # nothing is left elsewhere; ONNX Runtime writes this one in every process
    return {
        name: Scene(
            root / name,
            {moment: (root / f"{name}-{moment}.txt").read_text() for moment in (*how["moments"], "none")},
            {moment: there for scene, moment, _, there in ends if scene == name},
        )
        for name, how in played.items()
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def reused(log: str) -> int:
    return log.count("finished before\n")


@pytest.mark.slow  # .ci/run runs them
def test_killed_at_every_stage_it_ends_with_the_same_bytes(scenes, compile_tiny) -> None:
    scene = scenes["plain"]
    counts = [reused(log) for log in scene.logs.values()]
    assert counts == [0, 0, 1, 2, 4, 4, 4, 5, 5, 6, 7, 7, 7]  # what was finished before, the last time or earlier
    assert [moment for moment, is_there in scene.there.items() if is_there] == ["none"]
    assert scene.bundle.manifest_sha256 == compile_tiny("cpu", "int8").manifest_sha256  # with the hash of every file
    scene.bundle.verify()
    assert names(scene.folder) == {"out.psamf"}  # no work is left over


@pytest.mark.slow  # .ci/run runs them
@pytest.mark.parametrize("moment", ["packed", "clearing"])
def test_killed_when_the_bundle_is_there_it_is_finished_by_the_same_call(scenes, compile_tiny, moment: str) -> None:
    scene = scenes[moment]
    assert scene.there == {"rename": False, moment: True, "none": True}
    assert "was finished before, by this very call" in scene.logs["none"]
    assert scene.bundle.manifest_sha256 == compile_tiny("cpu", "int8").manifest_sha256
    assert names(scene.folder) == {"out.psamf"}


@pytest.mark.slow  # .ci/run runs them
def test_killed_while_it_replaces_a_bundle_there_is_always_one(scenes, compile_tiny) -> None:
    scene = scenes["replaced"]
    assert all(scene.there.values())
    assert "was finished before, by this very call" in scene.logs["none"]
    assert scene.bundle.manifest_sha256 == compile_tiny("cpu", "int8").manifest_sha256
    assert names(scene.folder) == {"out.psamf"}


@pytest.mark.slow  # .ci/run runs them
def test_killed_in_the_search_the_mending_and_the_report(scenes) -> None:
    scene = scenes["mixed"]
    assert [reused(log) for log in scene.logs.values()] == [0, 6, 7, 8, 8, 9, 9, 9]
    assert scene.content == scenes["mixed whole"].content  # the report too
    assert names(scene.folder) == {"out.psamf", "out.html"}


@pytest.mark.slow  # .ci/run runs them
def test_two_processes_for_one_output(scenes, compile_tiny) -> None:
    scene = scenes["two"]
    assert scene.there == {"second": False, "none": True}
    assert scene.logs["second"] == (
        f"psamf-edge: error: Another process is making {scene.folder / 'out.psamf'} just now: wait for it, or choose"
        " another name with -o.\n"
    )
    assert scene.bundle.manifest_sha256 == compile_tiny("cpu", "int8").manifest_sha256
    assert names(scene.folder) == {"out.psamf"}


@pytest.mark.slow  # .ci/run runs them
@pytest.mark.trt
def test_killed_while_engines_are_built(scenes) -> None:
    if "rtx" not in scenes:
        pytest.skip("TensorRT-RTX is not installed: pip install tensorrt-rtx")
    scene = scenes["rtx"]
    assert [reused(log) for log in scene.logs.values()] == [0, 7, 8, 10, 11, 11]
    assert scene.content == scenes["rtx whole"].content
    assert names(scene.folder) == {"out.psamf"}


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
    if lock_module.fcntl is None:
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


@pytest.mark.parametrize("name", ["export-x/../../precious", "..", "export-" + "x" * 80])
def test_a_stage_has_a_plain_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").mkdir()
    work = Work(tmp_path / "out")
    with pytest.raises(UsageError, match="No finished stage can be kept under the name"):
        work.once("title", name, {}, lambda: {"file": b"x"})
    work.close(done=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


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
