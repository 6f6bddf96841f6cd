"""`psamf-edge extract` on clips: the runtime's own features, whatever the number of processes, after any end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from media_files import write_clip, write_image
from mmsa_files import MmsaLoader

import psamf_edge
from psamf_edge.analyzer import Analyzer
from psamf_edge.bundle import DEFAULT_BUNDLE
from psamf_edge.cli import main
from psamf_edge.compile import lock
from psamf_edge.compile.data.feature_file import load_features, read_header
from psamf_edge.compile.extraction import extract
from psamf_edge.compile.extraction.clips import ClipExtractor, ClipFeatures
from psamf_edge.compile.extraction.labels import LabelledClip, read_labels
from psamf_edge.compile.extraction.workers import Workers
from psamf_edge.compile.files import atomic
from psamf_edge.errors import InputError, UsageError

SAMPLE = Path(psamf_edge.__file__).parent / "data" / "sample.mp4"
REAL = Path(__file__).parents[2] / "shared" / "data" / "clips"
HEADER = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"  # as MMSA's label.csv has it


def run(*arguments):
    return CliRunner().invoke(main, ["extract", *map(str, arguments)])


@pytest.fixture(scope="session")
def talk(tmp_path_factory) -> Path:
    """The first three seconds of the sample clip, packet by packet."""
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    with av.open(str(SAMPLE)) as source, av.open(str(path), "w") as target:
        streams = {
            stream: target.add_stream_from_template(stream) for stream in (*source.streams.video, *source.streams.audio)
        }
        for packet in source.demux(*streams):
            if packet.dts is not None and packet.dts * packet.time_base < 3:
                packet.stream = streams[packet.stream]
                target.mux(packet)
    return path


def make(folder: Path, talk: Path) -> Path:
    """A label file and its clips as MMSA lays them out: a talking face, a tone, a picture, and junk."""
    for video in "ab":
        (folder / "Raw" / video).mkdir(parents=True)
    shutil.copy(talk, folder / "Raw" / "a" / "1.mp4")
    write_clip(folder / "Raw" / "a" / "2.mp4", 0.5)
    write_image(folder / "picture.png").rename(folder / "Raw" / "b" / "1.mp4")
    (folder / "Raw" / "b" / "2.mp4").write_bytes(b"junk" * 1000)
    rows = 'a,1,"I ""love"" it, really",2.4,,,,Positive,train\na,2,no,-1,,,,Negative,valid\n'
    rows += f"b,1,{'so ' * 60},0,,,,Neutral,train\nb,2,what,1,,,,Positive,test\n"
    (folder / "label.csv").write_text(HEADER + rows)
    return folder / "label.csv"


class TestLabels:
    def read(self, tmp_path, content, clips=None):
        (tmp_path / "Raw").mkdir(exist_ok=True)
        path = tmp_path / "label.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_labels(path, clips)

    def test_as_mmsa_writes_it(self, tmp_path):
        assert self.read(tmp_path, "\ufeff" + HEADER + "v$1,0001,Hello,-3,,,,,train\r\n") == [
            LabelledClip(2, "v$1$_$0001", "train", tmp_path / "Raw" / "v$1" / "0001.mp4", "Hello", -3.0)
        ]

    def test_ids_paths_and_splits(self, tmp_path):
        rows = self.read(
            tmp_path, "id,clip,text,label,split\na_1,,x,1,train\nb$_$2,,,1,valid\nc,sub/c.mkv,x,1,test\n", tmp_path
        )
        assert [row.clip for row in rows] == [
            tmp_path / "a_1.mp4", tmp_path / "b" / "2.mp4", tmp_path / "sub" / "c.mkv"
        ]  # fmt: skip
        assert [(row.id, row.split) for row in rows] == [("a_1", "train"), ("b$_$2", "valid"), ("c", "test")]

    def test_a_path_in_each_row_needs_no_folder(self, tmp_path):
        path = tmp_path / "label.csv"
        path.write_text("id,clip,text,label,split\na,a.mp4,x,1,train\n")
        assert read_labels(path)[0].clip == tmp_path / "a.mp4"
        path.write_text("id,text,label,split\na,x,1,train\n")
        with pytest.raises(UsageError, match=r"There is no folder .*Raw"):
            read_labels(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "lacks the column id or video_id and clip_id, text, label, split or mode"),
            ("video_id,text,label,mode\n", "lacks the column id or video_id and clip_id;"),
            ("id,text,label,split\n", "has no rows"),
            ("id,text,label,split\na,x,1\n", "not as many cells"),
            ("id,text,label,split\na,x,1,dev\n", "the split 'dev' is none of"),
            ("id,text,label,split\na,x,3.1,train\n", r"the label '3\.1'"),
            ("id,text,label,split\na,x,nan,train\n", "the label 'nan'"),
            ("id,text,label,split\na,x,great,train\n", "the label 'great'"),
            ("id,text,label,split\n,x,1,train\n", "the id '' is none"),
            ("id,text,label,split\na$_$,x,1,train\n", "is none"),
            ("id,text,label,split\na$_$b$_$c,x,1,train\n", "is none"),
            ("id,text,label,split\na,x,1,train\nb,x,1,train\na,x,1,test\n", "line 4: the id 'a' is in line 2 too"),
            ("id,text,label,split\n../a,x,1,train\n", "leads out of the folder"),
            ("id,text,label,split\n..$_$a,x,1,train\n", "leads out of the folder"),
            ("video_id,clip_id,text,label,split\n/etc,passwd,x,1,train\n", "leads out of the folder"),
            ('id,text,label,split\na,"x,1,train\n', "not CSV"),
            (b"id,text,label,split\na,\xff,1,train\n", "not CSV in UTF-8"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path, content, message):
        with pytest.raises(UsageError, match=message):
            self.read(tmp_path, content)
        assert run(tmp_path / "label.csv", "-o", tmp_path / "o.npz").exit_code == 2


class TestClips:
    def test_the_features_are_the_runtimes_own(self, talk, tmp_path, monkeypatch):
        seen = []
        with Analyzer(device="cpu") as analyzer:
            backend = analyzer._scorer._backend
            run_model = backend.run
            monkeypatch.setattr(backend, "run", lambda features: seen.append(features) or run_model(features))
            analyzer(talk, text="I love it", whole=True)
        extractor = ClipExtractor()
        got = extractor.extract(talk)
        extractor.close()
        assert np.array_equal(got.audio, seen[0].audio)
        assert np.array_equal(got.vision, seen[0].face)
        assert got.remarks == []
        got.save(tmp_path / "part.npz")
        again = ClipFeatures.load(tmp_path / "part.npz")
        assert np.array_equal(again.audio, got.audio)
        assert np.array_equal(again.vision, got.vision)

    def test_a_worker_that_dies_fails_one_clip(self, talk, tmp_path):
        with Workers(None, 1) as workers:
            workers.extract(write_clip(tmp_path / "a.mp4", 0.2), tmp_path / "a.npz")
            killer = threading.Timer(0.1, workers._started[0].kill)
            killer.start()
            with pytest.raises(InputError, match="the process that read it died"):
                workers.extract(talk, tmp_path / "b.npz")  # takes longer than that
            workers.extract(tmp_path / "a.mp4", tmp_path / "c.npz")
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
        assert all(process.returncode is not None for process in workers._started)


class TestRuns:
    def test_junk_fails_alone_and_a_second_run_goes_on(self, talk, tmp_path):
        labels, out = make(tmp_path, talk), tmp_path / "o.npz"
        result = run(labels, "-o", out)
        assert result.exit_code == 1
        assert "label.csv, line 5, b$_$2: " in result.stderr
        assert "no media file" in result.stderr
        report = json.loads(result.stdout)
        assert (report["splits"], report["failed"]) == ({"train": 2, "valid": 1}, 1)
        assert report["remarks"] == {
            "No face was found.": 2,
            "No speech was heard.": 1,
            "The clip has no sound.": 1,
            "The text is longer than 50 tokens, and its end was left out.": 1,
        }
        train = load_features(out, "train")
        assert train.ids == ["a$_$1", "b$_$1"]
        assert train.raw_text == ['I "love" it, really', ("so " * 60).strip()]
        assert train.labels.tolist() == [np.float32(2.4), 0.0]
        assert train.text_mask.sum(axis=1).tolist() == [9, 50]
        assert [rows.shape[1] for rows in train.audio + train.vision] == [63, 63, 69, 69]
        assert len(train.audio[0]) > 280  # 3 s at 10 ms
        assert len(train.vision[0]) > 28
        assert len(train.audio[1]) == 0
        header = read_header(out)
        assert (len(header["audio"]["features"]), len(header["vision"]["features"])) == (63, 69)
        assert header["bundle"]["name"] == "default"

        before = {part: part.stat().st_mtime_ns for part in (tmp_path / "o.npz.parts").glob("*.npz")}
        assert len(before) == 3
        labels.write_text(labels.read_text().replace(",-1,", ",-0.5,"))  # labels are not part of a part
        write_clip(tmp_path / "Raw" / "b" / "2.mp4", 0.3)
        (tmp_path / "Raw" / "a" / "2.mp4").unlink()
        assert run(labels, "-o", out).exit_code == 1  # another one fails now
        after = {part: part.stat().st_mtime_ns for part in (tmp_path / "o.npz.parts").glob("*.npz")}
        assert before.items() < after.items()
        write_clip(tmp_path / "Raw" / "a" / "2.mp4", 0.5)
        result = run(labels, "-o", out, "-q")
        assert (result.exit_code, result.stderr) == (0, "")
        assert not (tmp_path / "o.npz.parts").exists()
        assert load_features(out, "valid").labels.tolist() == [-0.5]
        assert load_features(out, "test").ids == ["b$_$2"]

    def test_jobs_change_nothing_and_mmsa_reads_it(self, talk, tmp_path):
        labels = make(tmp_path, talk)
        write_clip(tmp_path / "Raw" / "b" / "2.mp4", 0.3)
        for name, jobs in (("one.npz", 1), ("two.npz", 2), ("three.pkl", 2)):
            assert run(labels, "-o", tmp_path / name, "--jobs", jobs, "-q").exit_code == 0
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
        for split in ("train", "valid", "test"):
            loader, clips = MmsaLoader(tmp_path / "three.pkl", split), load_features(tmp_path / "one.npz", split)
            assert len(loader) == len(clips)
            for index, rows in enumerate(clips.audio):
                item = loader[index]
                assert item["id"] == clips.ids[index]
                assert item["audio_lengths"] == max(1, len(rows))
                assert np.array_equal(item["audio"][: len(rows)], rows)
                assert item["vision"].shape[1] == 69
        assert run(tmp_path / "one.npz", "-o", tmp_path / "four.pkl").exit_code == 0
        assert (tmp_path / "three.pkl").read_bytes() == (tmp_path / "four.pkl").read_bytes()

    @pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the children in /proc")
    def test_killed_and_run_again(self, talk, tmp_path):
        (tmp_path / "Raw" / "v").mkdir(parents=True)
        rows = ""
        for index in range(3):
            shutil.copy(talk, tmp_path / "Raw" / "v" / f"{index}.mp4")
            rows += f"v,{index},words,1,,,,,train\n"
        labels, out, parts = tmp_path / "label.csv", tmp_path / "o.npz", tmp_path / "o.npz.parts"
        labels.write_text(HEADER + rows)
        command = [sys.executable, "-m", "psamf_edge", "extract", str(labels), "-o", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not list(parts.glob("*.npz")):
            assert process.poll() is None
            time.sleep(0.01)
        threads = Path(f"/proc/{process.pid}/task").iterdir()
        children = [child for thread in threads for child in (thread / "children").read_text().split()]
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert children
        assert not out.exists()
        deadline = time.monotonic() + 60
        while any(alive(child) for child in children):  # the worker ends by itself
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kept = {part: part.stat().st_mtime_ns for part in parts.glob("*.npz")}
        assert 1 <= len(kept) < 3
        for half in (
            "0123.npz.new",
            "whole.npz.new",
            "whole.pkl.new",
        ):  # as a kill in the middle of a write leaves them
            (parts / half).write_bytes(b"half")
        assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
        assert not parts.exists()
        assert run(labels, "-o", tmp_path / "again.npz", "-q").exit_code == 0
        assert out.read_bytes() == (tmp_path / "again.npz").read_bytes()

    def test_two_runs_for_one_file(self, talk, tmp_path):
        if lock.fcntl is None:
            pytest.skip("no file locks here")
        labels, out = make(tmp_path, talk), tmp_path / "o.npz"
        with lock.take_lock(tmp_path / "o.npz.parts", out):
            result = run(labels, "-o", out)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"Another process is making {out} just now: wait for it" in result.stderr
        assert not out.exists()

    def test_no_clip_can_be_read(self, talk, tmp_path):
        labels = make(tmp_path, talk)
        for clip in (tmp_path / "Raw").rglob("*.mp4"):
            clip.write_bytes(b"junk")
        result = run(labels, "-o", tmp_path / "o.npz")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "None of the 4 clips" in result.stderr
        assert not (tmp_path / "o.npz").exists()

    def test_a_bundle_that_is_damaged_ends_the_run(self, talk, tmp_path):
        labels, bundle = make(tmp_path, talk), tmp_path / "b.psamf"
        shutil.copytree(DEFAULT_BUNDLE, bundle)
        content = bytearray((bundle / "expression.onnx").read_bytes())
        content[1000] ^= 0xFF
        (bundle / "expression.onnx").chmod(0o644)
        (bundle / "expression.onnx").write_bytes(content)
        result = run(labels, "-o", tmp_path / "o.npz", "--bundle", bundle)
        assert (result.exit_code, result.stdout) == (4, "")
        assert result.stderr.count("\n") == 1
        assert run(labels, "-o", tmp_path / "o.npz", "--bundle", tmp_path / "none").exit_code == 2

    def test_a_clip_of_several_rows_is_extracted_once(self, tmp_path, monkeypatch):
        asked, done = [], []

        class SlowWorkers(Workers):
            def extract(self, clip, part):
                asked.append(clip)
                time.sleep(0.1)  # so that another thread could come in between
                ClipFeatures(np.ones((3, 63), np.float32), np.zeros((0, 69), np.float32), []).save(part)

        monkeypatch.setattr(extract, "Workers", SlowWorkers)
        (tmp_path / "talk.mp4").write_bytes(b"")
        clips = {"a": tmp_path / "talk.mp4", "b": tmp_path / "none.mp4", "c": tmp_path / "talk.mp4"}
        rows = [LabelledClip(line, *row) for line, row in enumerate(
            [(name, "train", clip, "so", 1.0) for name, clip in clips.items()], start=2
        )]  # fmt: skip
        found = extract.extract_clips(rows, tmp_path / "parts", jobs=2, on_row=lambda: done.append(1))
        assert asked == [tmp_path / "talk.mp4"]
        assert found.sets["train"].ids == ["a", "c"]
        assert [failure[:10] for failure in found.failures] == ["line 3, b:"]
        assert len(done) == 3

    def test_what_killed_runs_left_goes_with_the_parts(self, tmp_path):
        parts = tmp_path / "o.npz.parts"
        parts.mkdir()
        for name in ("0123.npz", "whole.npz", "whole.pkl"):
            with atomic(parts / name) as new:
                new.write_bytes(b"whole")
            new.write_bytes(b"half")  # a kill leaves it there
        (parts / "whole.pkl").rename(tmp_path / "o.pkl")
        extract.remove_parts(parts)
        assert not parts.exists()

    def test_files_of_others_stay_in_the_folder_of_parts(self, tmp_path):
        labels = tmp_path / "label.csv"
        write_clip(tmp_path / "a.mp4", 0.2)
        labels.write_text("id,clip,text,label,split\na,a.mp4,x,1,train\n")
        (tmp_path / "o.npz.parts").mkdir()
        (tmp_path / "o.npz.parts" / "notes.txt").write_text("mine")
        assert run(labels, "-o", tmp_path / "o.npz").exit_code == 0
        assert [path.name for path in (tmp_path / "o.npz.parts").iterdir()] == ["notes.txt"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real clips are not on this machine")
def test_real_clips(tmp_path):
    rows = "".join(
        f"{name},{REAL / name},some words,1,train\n" for name in ("EAMM_M030_sad_3_001.mp4", "GRID_bbaf2n.mpg")
    )
    (tmp_path / "label.csv").write_text("id,clip,text,label,split\n" + rows)
    assert run(tmp_path / "label.csv", "-o", tmp_path / "o.npz", "-q").exit_code == 0
    clips = load_features(tmp_path / "o.npz", "train")
    for audio, vision in zip(clips.audio, clips.vision, strict=True):
        assert len(audio) > 100
        assert abs(len(vision) - len(audio) / 10) <= 2  # a face in all frames, ten a second


def test_no_training_package_is_needed():
    code = "import sys, psamf_edge.compile.extraction.extract, psamf_edge.compile.extraction.command\n"
    code += "print(*(name for name in ('torch', 'tqdm', 'onnxruntime', 'av') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() in ([], ["onnxruntime"])


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
