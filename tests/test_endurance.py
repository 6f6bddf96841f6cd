"""benchmarks/endurance in a small size: no section finds anything here, and each finds what is put before it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is held is read from /proc")

from benchmarks.endurance import clips, company, inferences, kills
from benchmarks.endurance.apart import apart
from benchmarks.endurance.readings import Reading, judge, read, slope, state
from psamf_edge.analyzer import Analyzer
from psamf_edge.bench.memory import resident_mb
from psamf_edge.errors import InputError, UsageError
from psamf_edge.media.reader import MediaReader

SAMPLE = Path(__file__).parents[1] / "psamf_edge" / "data" / "sample.mp4"
HELD = Reading(0, 100.0, 50.0, 8, 5, 2, 3, 1, 0, 0)


def held(record: dict) -> dict[str, int]:
    """By how much a run's last reading is above its first, memory left out: small runs do not show it."""
    names = ("handles", "decoder_handles", "memfds", "threads", "children", "zombies", "temporary_files")
    return {name: record[name]["last"] - record[name]["first"] for name in names}


class TestSlope:
    done = np.arange(1, 41) * 250

    def test_the_interval_holds_the_truth_as_often_as_it_says(self):
        rng, held = np.random.default_rng(0), 0
        for _ in range(400):
            line = slope(self.done, 100 + 450e-6 * self.done + rng.normal(0, 0.2, 40))
            held += line.low < 450 < line.high
            assert line.high > 100  # a leak of the smallest thing there is, through this noise
        assert held >= 0.92 * 400  # 95 %, less two standard errors and what is rounded

    def test_noise_is_none(self):
        line = slope(self.done, 100 + np.random.default_rng(1).normal(0, 0.1, 40))
        assert line.low < 0 < line.high < 100

    def test_what_fills_at_the_start_does_not_count(self):
        line = slope(self.done, np.minimum(100 + self.done / 100, 110))
        assert (line.bytes_each, line.high) == (0, 0)

    def test_neighbours_that_are_alike_widen_the_interval(self):
        rough = np.random.default_rng(2).normal(0, 1, 40)
        smooth = np.convolve(rough, np.ones(8) / 8, "same")
        ratio = [(line.high - line.low) / np.std(y) for y in (smooth, rough) for line in [slope(self.done, y)]]
        assert ratio[0] > 1.5 * ratio[1]

    def test_two_readings_are_no_line(self):
        with pytest.raises(ValueError, match="take three or more"):
            slope([0, 1], [1, 1])


class TestJudge:
    def readings(self, **last: float) -> list[Reading]:
        middle = [replace(HELD, done=10 * i) for i in range(5)]
        return [*middle, replace(HELD, done=50, **last)]

    def test_what_stays_is_no_complaint(self):
        assert judge(self.readings(), {"resident_mb": 100, "decoder_mb": 100})[1] == []

    @pytest.mark.parametrize(
        "name", ["handles", "decoder_handles", "memfds", "threads", "children", "zombies", "temporary_files"]
    )
    def test_one_more_is(self, name):
        (complaint,) = judge(self.readings(**{name: getattr(HELD, name) + 1}), {"resident_mb": 100})[1]
        assert complaint.startswith(name)

    @pytest.mark.parametrize("name", ["resident_mb", "decoder_mb"])
    def test_memory_that_grows_is(self, name):
        readings = [replace(HELD, done=i, **{name: 100 + i}) for i in range(10)]
        figures, (complaint,) = judge(readings, {"resident_mb": 100, "decoder_mb": 100})
        assert figures[name]["slope"]["bytes_each"] == 1e6
        assert complaint.startswith(name)


def test_a_reading_sees_what_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = read(0)
    memory = os.memfd_create("test")
    (tmp_path / "left").touch()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    after = read(1)
    os.waitpid(pid, 0)
    os.close(memory)
    rose = {name: getattr(after, name) - getattr(before, name) for name in ("handles", "memfds", "temporary_files")}
    assert rose == {"handles": 1, "memfds": 1, "temporary_files": 1}
    assert (after.children - before.children, after.zombies - before.zombies) == (1, 1)


def test_inferences():
    record = apart(inferences.run, 120, 20)
    assert (record["inferences"], record["differing_scores"]) == (120, 0)
    assert not any(held(record).values())


def test_inferences_that_differ_are_counted(monkeypatch):
    class Drifting:
        count = 0

        def __enter__(self):
            return self

        def __exit__(self, *exception): ...

        def run(self, features):
            Drifting.count += 1
            return Drifting.count // 41  # one more after two passes

    monkeypatch.setattr(inferences, "open_backend", lambda *arguments: Drifting())
    record = inferences.run(100, 20)
    assert record["differing_scores"] == 60
    assert any("another score" in complaint for complaint in record["complaints"])


def test_clips_with_hostile_ones_between_them(tmp_path):
    chosen = clips.write_hostile(tmp_path, ("claims.png", "noise.mkv", "scripted.mp4", "changing.avi"))
    record = apart(clips.run, [SAMPLE], 4, 1, 0.0, chosen)
    assert record["times"] == [5]
    assert (record["differing"], record["hostile"]["files"], record["hostile"]["analyses"]) == (0, 4, 8)
    assert record["hostile"]["refused"] >= 2
    assert not any(held(record).values())
    assert [complaint for complaint in record["complaints"] if "grows" not in complaint] == []


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ('refused: "a.mp4" is empty; copy or record it again.', True),
        ("refused: unexpected KeyError: 'x'.", False),
        ("refused: no end", False),
        ("refused: \x1b[2J.", False),
    ],
)
def test_sentences(text, good):
    assert clips.is_sentence(text) == good


CALLS = [(None, words) for words in company.WORDS]


@pytest.fixture(scope="module")
def truth():
    return company.alone(CALLS, seed=0)


class TestCompany:
    def test_threads_with_an_analyzer_each(self, truth):
        assert company.threads_each(CALLS, 2) == [truth] * 2

    def test_threads_with_one_analyzer(self, truth):
        assert company.threads_shared(CALLS, 8) == [truth] * 8

    def test_new_processes(self, truth):
        assert company.processes(CALLS, 1, 2) == [truth] * 2

    def test_analyzers_that_come_and_go_leave_nothing(self):
        before = read(0)
        company.come_and_go(CALLS[0], 2, 1)
        after = read(0)
        for name in ("handles", "memfds", "threads", "children", "zombies"):
            assert getattr(after, name) <= getattr(before, name)

    def test_an_analyzer_that_is_closed_at_work_says_so(self):
        assert company.closed_meanwhile((SAMPLE, None)).startswith("refused: This Analyzer was closed while")

    def test_a_forked_process_gets_a_sentence_and_the_old_one_goes_on(self):
        told, goes_on = company.forked((SAMPLE, None))
        assert told.startswith("UsageError: This Analyzer was loaded before the process was forked")
        assert goes_on

    def test_a_closed_analyzer_starts_no_new_decoder(self):
        analyzer = Analyzer(device="cpu")
        analyzer.close()
        with pytest.raises(UsageError, match="closed"):
            analyzer(SAMPLE)
        assert analyzer._reader._child is None


@pytest.fixture(scope="module")
def batch():
    with kills.batch_of(SAMPLE, 3) as folder:
        yield folder


class TestKills:
    def test_a_decoder_that_is_killed_costs_its_clip(self, batch):
        with kills.Batch(SAMPLE) as alone:
            assert alone.process.wait(60) == 0
            truth = kills.line_of(alone.results[0])
        record = kills.decoder_kills(batch, 1, truth, random.Random(0))
        assert record["complaints"] == []
        assert record["kills"] == 1
        assert record["clips"] == 3 * record["batches"]  # a quick machine ends batches before the blow falls

    @pytest.mark.parametrize("name", ["terminated", "killed"])  # Ctrl-C: tests/test_cli_endtoend.py
    def test_a_run_that_is_ended_leaves_nothing(self, batch, name, tmp_path):
        expected = kills.written(SAMPLE, tmp_path / "expected", "srt")
        record = kills.ended_runs(batch, name, 1, expected, random.Random(1))
        assert record["complaints"] == []


def test_a_clip_of_many_streams_is_let_go_of(tmp_path):
    """Its contexts hang in cycles: two megabytes each time, until Python happens to look."""
    (clip,) = clips.write_hostile(tmp_path, ["many-streams.mkv"])

    def resident_after(reads: int) -> float:
        for _ in range(reads):
            with suppress(InputError):
                list(reader.read(clip))
        return resident_mb(reader._child._process.pid)[0]

    with MediaReader() as reader:
        before = resident_after(3)
        assert resident_after(15) - before < 5


def test_a_decoder_does_not_finish_what_nobody_waits_for(tmp_path):
    """16 GB take it ten seconds and more to hash; it ends long before, although its reader had no time to say so."""
    from tests.attacks.media import sparse_wav

    clip = sparse_wav(tmp_path / "long.wav", 8e9 / 16_000)
    code = (
        "import sys, time; from psamf_edge.media.reader import MediaReader\n"
        "reader = MediaReader(); events = reader.read(sys.argv[1]); next(events); next(events)\n"
        "print(reader._child._process.pid, flush=True); time.sleep(600)"
    )
    reader = subprocess.Popen([sys.executable, "-c", code, clip], stdout=subprocess.PIPE, text=True)
    decoder = int(reader.stdout.readline())
    reader.kill()
    reader.communicate()
    read = [0]

    def gone() -> bool:
        with suppress(OSError, ProcessLookupError):
            read.append(int(Path(f"/proc/{decoder}/io").read_text().split()[1]))
        return state(decoder) in "ZX"

    assert kills.wait_until(gone)
    assert read[-1] < clip.stat().st_size / 2


@pytest.mark.slow
def test_everything_in_a_size_that_takes_minutes(tmp_path):
    inference = apart(inferences.run, 5000)
    clip = apart(clips.run, [SAMPLE], 60, 5)
    assert inference["complaints"] == clip["complaints"] == []
    assert apart(company.run, [SAMPLE], 4, 2)["complaints"] == []
    assert apart(kills.run, SAMPLE, 5, 3)["complaints"] == []
