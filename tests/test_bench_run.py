"""A real run of the benchmark, as small as it can be, and how its command answers to wrong use."""

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from media_files import write_clip

from psamf_edge.backends import open_backend
from psamf_edge.bench import processes, suite
from psamf_edge.bench.copies import input_bytes
from psamf_edge.bench.energy import CounterMeter
from psamf_edge.bench.processes import Child, Job, throughput
from psamf_edge.bench.stages import SegmentTimer, fits, utterance
from psamf_edge.bench.suite import Settings
from psamf_edge.bundle import open_bundle
from psamf_edge.cli import COMMANDS
from psamf_edge.cli.bench import bench
from psamf_edge.errors import InputError, PsamfError, UsageError

SCHEMA = Path(__file__).parents[1] / "psamf_edge" / "bench" / "schema.json"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds of pictures and sound."""
    path = tmp_path_factory.mktemp("clip") / "short.mp4"
    write_clip(path)
    return path


@pytest.fixture(scope="module")
def ran(clip, tmp_path_factory):
    """Output, document and drawing of two rounds."""
    folder = tmp_path_factory.mktemp("bench")
    options = {"--text": "Fine.", "--rounds": 2, "--warmup": 0, "--concurrency": 1, "--lengths": "4:1,8:1.5",
               "--format": "markdown", "-o": folder / "a.json", "--plot": folder / "a.svg"}  # fmt: skip
    arguments = [str(word) for pair in options.items() for word in pair]
    done = CliRunner().invoke(bench, [str(clip), *arguments], standalone_mode=False)
    assert done.return_value == 0, done.output + repr(done.exception)
    return done, json.loads((folder / "a.json").read_text()), (folder / "a.svg").read_text()


def test_the_document_follows_its_schema(ran):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(ran[1])


def test_everything_was_measured(ran, clip):
    _, document, _ = ran
    series = {(each["group"], each["name"]): each for each in document["series"]}
    for stage in ("whole", "decode", "face", "audio", "words", "model", "rest", "model/text", "model/fusion"):
        assert len(series["clip", stage]["samples"]) == 2, stage
    for part in ("model", "model/text", "model/audio", "model/face", "model/fusion"):
        assert len(series["model, 8 tokens and 1.5 s", part]["samples"]) == 2, part
    assert {"start of Python", "import", "load", "first clip", "whole", "peak memory"} <= {
        name for group, name in series if group == "cold start"
    }
    assert series["throughput, 1 process", "clips a second"]["samples"][0] > 0
    assert len(series["throughput, 1 process", "clip"]["samples"]) == 3
    if sys.platform == "linux":
        assert series["memory", "decoder's process"]["samples"][0] > 10  # MB: Python and FFmpeg
    assert document["clip"]["name"] == clip.name
    assert document["models"]["default"]["backend"] == "onnxruntime"
    assert any(warning.startswith("Few samples") for warning in document["warnings"])


def test_parts_do_not_exceed_their_whole(ran):
    series = {(each["group"], each["name"]): np.array(each["samples"]) for each in ran[1]["series"]}

    def at(group, *names):
        return sum(series[group, name] for name in names)

    slack = 0.001  # ms: samples are rounded to a tenth of a microsecond, and a dozen are added
    stages = at("clip", "decode", "face", "audio", "words", "model", "rest")
    assert np.all(np.abs(stages - at("clip", "whole")) < slack)
    parts = [name for group, name in series if group == "clip" and name.startswith("model/")]
    assert np.all(at("clip", *parts) <= at("clip", "model") + slack)
    cold = at("cold start", "start of Python", "import", "load", "first clip")
    assert np.all(np.abs(cold - at("cold start", "whole")) < slack)


def test_the_report_and_the_drawing(ran):
    done, document, drawing = ran
    assert "| clip | n | p50 | p90 | p95 | p99 | max | unit |" in done.stdout
    assert "Where these figures mislead:" in done.stdout
    assert all(warning in done.stdout for warning in document["warnings"])
    assert "2 rounds" in done.stderr
    assert ET.fromstring(drawing).tag.endswith("svg")


def test_segments_are_timed_and_nothing_else_changes():
    bundle = open_bundle()
    features = utterance(bundle.shapes, 6, 1)
    with open_backend(bundle, "cpu") as backend:
        timer = SegmentTimer(backend, bundle)
        assert timer.run(features) == backend.run(features)
        assert set(timer.ms) == {segment.name for segment in bundle.plan}
        assert timer.utterances == [features]
        timer.reset()
        assert not timer.ms


def test_a_backend_that_shows_no_segments_is_timed_as_a_whole():
    class Opaque:
        name, precision, note = "tensorrt", "fp16", None

        def run(self, features):
            return "scores"

    timer = SegmentTimer(Opaque(), open_bundle())
    assert timer.run("features") == "scores"
    assert not timer.ms


def test_what_a_model_takes_whole():
    shapes = open_bundle().shapes
    assert fits(shapes, shapes.max_tokens, 30)
    assert not fits(shapes, shapes.max_tokens + 1, 30)
    assert not fits(shapes, 10, 30.1)
    assert not fits(shapes, 0, 1)
    assert not fits(shapes, 1, 0)


def test_bundles_have_labels():
    settings = Settings(bundles=(None, Path("a/x.psamf"), Path("b/x.psamf"), Path("y.psamf")))
    assert list(settings.labels()) == ["default", "a/x.psamf", "b/x.psamf", "y"]
    with pytest.raises(UsageError, match="twice"):
        Settings(bundles=(Path("x"), Path("x"))).labels()


class StandInChild:
    """A process that scores a clip each half second."""

    def __init__(self, job, task, **more):
        self.clips, self.answers = more["clips"], 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def go(self):
        self.began = time.perf_counter()

    def answer(self):
        self.answers += 1
        if self.answers == 1:
            return {"ready": True}
        memory = {"resident_mb": 100.0, "peak_mb": 120.0, "decoder_mb": None, "device_mb": 700.0}
        return {"ends": [self.began + 0.5 * (n + 1) for n in range(self.clips)], **memory}


@pytest.mark.parametrize("count", [1, 3])
def test_throughput_memory_and_energy(monkeypatch, count):
    monkeypatch.setattr(processes, "Child", StandInChild)
    joules = iter([10, 18])
    meter = CounterMeter("board", lambda: next(joules), 1.0)
    found = {each.name: each for each in throughput("m", Job(None, "cpu", 1, "x", None), count, 4, 0, [meter], True)}
    assert len(found["clip"].samples) == 4 * count
    # the stand-ins begin one after the other, some microseconds apart
    assert found["clip"].samples == pytest.approx([500.0] * 4 * count, abs=50)
    assert found["clips a second"].samples[0] == pytest.approx(2 * count, rel=0.1)
    if count == 1:
        assert [found[name].samples for name in ("resident", "peak", "GPU")] == [(100.0,), (120.0,), (700.0,)]
        assert "decoder's process" not in found  # the system did not tell
        assert found["board, each clip"].samples == (2.0,)
        assert found["board, mean power"].samples[0] > 0
    else:
        assert set(found) == {"clip", "clips a second"}  # memory and energy are of one process


def test_idle_power(monkeypatch):
    monkeypatch.setattr(suite, "IDLE_S", 0.01)
    counts = iter([0, 5])
    (found,) = suite.idle_power([CounterMeter("board", lambda: next(counts), 1e-3)])
    assert (found.group, found.unit) == ("energy", "W")
    assert 0 < found.samples[0] <= 0.5  # five millijoules in ten milliseconds or more
    assert suite.idle_power([]) == []


@pytest.mark.parametrize("shares", [False, True])
def test_copies_of_a_gpu(monkeypatch, shares):
    driver = SimpleNamespace(shares_memory=shares, close=lambda: closed.append(1))
    closed, notes = [], []
    monkeypatch.setattr("psamf_edge.backends.driver.open_driver", lambda: driver)
    monkeypatch.setattr(suite, "copy_ms", lambda used, sizes, rounds, warmup: [float(sum(sizes))] * rounds)
    features = utterance(open_bundle().shapes, 4, 1)
    model = SimpleNamespace(timer=SimpleNamespace(name="tensorrt", utterances=[features, features]))
    found = list(suite._copies("m", model, Settings(rounds=2), notes))
    assert closed
    if shares:
        assert (found, len(notes)) == ([], 1)
    else:
        assert found[0].samples == (2.0 * input_bytes(features),) * 2
    model.timer.name = "onnxruntime"
    assert list(suite._copies("m", model, Settings(), notes)) == []


def test_an_error_of_a_process_is_the_same_error_here(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no clip")
    with pytest.raises(InputError, match=r"broken\.mp4"), Child(Job.of(None, "cpu", 1, broken, "x"), "cold") as child:
        child.answer()


def test_a_process_that_dies_is_an_error():
    with Child(Job(None, "cpu", 1, "x", None), "cold") as child:
        child._process.kill()
        with pytest.raises(PsamfError, match="died"):
            child.answer()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.mp4"], "does not exist"),
        (["--rounds", "0"], "--rounds"),
        (["--concurrency", "1,x"], "as in 1,2,4"),
        (["--concurrency", "65"], "from 1 to 64"),
        (["--lengths", "10"], "as in 10:2,50:10"),
        (["--lengths", "a:b"], "as in 10:2,50:10"),
        (["-o", "no/folder/a.json"], "no folder"),
        (["--plot", "no/folder/a.svg"], "no folder"),
        (["-o", "same", "--plot", "same"], "by -o and by --plot"),
        (["-o", "-"], "names no file here"),
        (["--compare", "a.json", "b.json", "--rounds", "3"], "leave out rounds"),
        (["--bundle", "x.psamf", "--bundle", "x.psamf"], "twice"),
        (["--bundle", "nowhere.psamf"], "not a bundle"),
    ],
)
def test_wrong_use(arguments, said):
    done = CliRunner().invoke(bench, arguments)
    message = done.output + str(done.exception)
    assert said in message
    assert getattr(done.exception, "exit_code", done.exit_code) == 2


def test_the_clip_is_not_overwritten(clip):
    done = CliRunner().invoke(bench, [str(clip), "-o", str(clip)])
    assert "is read, and would be replaced" in str(done.exception)


def test_the_command_is_there_and_needs_no_training_package():
    assert COMMANDS["bench"][0] == "psamf_edge.cli.bench:bench"
    code = "import psamf_edge.cli.bench, sys; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not {"'torch'", "'onnx'", "'matplotlib'", "'scipy'", "'av'"} & set(done.stdout.strip("[]\n").split(", "))
