"""One batch of every attack on the decoder, through the command line: each costs its own clip and no other.

tests/test_media_hostile.py attacks the reader itself: names, addresses, dead and lying children.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import media_files as files
import pytest

from tests.attacks.media import ATTACKS, SCRIPT, sparse_wav

# Two processes of about 150 MB each, a picture of 144 million pixels, and its copy in another format.
MEMORY_LIMIT = 1 << 30
TIME_LIMIT_S = 300  # the batch takes about ten seconds; a clip that hangs is given up after a minute


@dataclass(frozen=True)
class Batch:
    """What came of the batch. results: clip to object. errors: lines on stderr. peak: bytes, of the larger process."""

    folder: Path
    code: int
    results: dict[str, dict]
    errors: list[str]
    peak: int


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> Batch:
    """Every attack, with an honest clip behind each."""
    folder = tmp_path_factory.mktemp("attacks")
    honest = files.write_clip(folder / "honest.wav", 1, size=None, rate=16_000, audio_codec="pcm_s16le")
    honest.with_suffix(".txt").write_text("It was good.")
    clips = []
    for name, write in ATTACKS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / name)
        after = folder / f"after-{name}.wav"
        shutil.copy(honest, after)
        shutil.copy(honest.with_suffix(".txt"), after.with_suffix(".txt"))
        clips += [folder / name, after]
    command = [sys.executable, "-m", "psamf_edge", "infer", *map(str, clips), "--format", "json"]
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        watchdog = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({TIME_LIMIT_S})"])
        try:
            while True:
                pid, status, usage = os.wait4(-1, 0)
                if pid == watchdog.pid:
                    process.kill()
                    pytest.fail(f"the batch was not done after {TIME_LIMIT_S} s")
                if pid == process.pid:
                    break
        finally:
            watchdog.kill()
    process.returncode = os.waitstatus_to_exitcode(status)
    results = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    errors = (folder / "err").read_text().splitlines()
    by_name = {Path(result["clip"]).name: result for result in results}
    return Batch(folder, process.returncode, by_name, errors, 1024 * usage.ru_maxrss)


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux tells it")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_in_one_sentence_or_a_result(batch, name):
    said = [line for line in batch.errors if json.dumps(str(batch.folder / name)) in line and "error" in line]
    if name in batch.results:
        assert not said
        assert -3 <= batch.results[name]["score"] <= 3
    else:
        assert len(said) == 1
        assert said[0].startswith("psamf-edge: error: ")
        assert said[0].endswith(".")
        assert "unexpected" not in said[0]
    assert f"after-{name}.wav" in batch.results


def test_the_honest_clips_are_scored_as_if_nothing_had_been(batch):
    scores = {
        (result["score"], json.dumps(result["segments"])) for name, result in batch.results.items() if "after-" in name
    }
    assert len(scores) == 1


def test_the_batch_says_that_some_failed(batch):
    assert batch.code == 1


def test_no_process_took_more_memory_than_it_may(batch):
    assert batch.peak < MEMORY_LIMIT, f"{batch.peak >> 20} MB"


def test_nothing_on_the_terminal_obeys_a_clip(batch):
    for line in batch.errors:
        assert line.isprintable()
    segments = batch.results["scripted.mp4"]["segments"]
    assert SCRIPT[1:7] in json.dumps(segments) or segments


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_hours_of_nothing_take_the_memory_of_their_samples(tmp_path):
    """An hour is 230 MB as float32; a late start of three hours, which a file of 20 KB can ask for, 690 MB."""
    clips = [sparse_wav(tmp_path / "hour.wav", 3600), tmp_path / "late.mkv"]
    files.write_clip(clips[1], 2, audio_delay_ms=3 * 3600 * 1000)
    code = (
        "import psamf_edge, sys\n"
        "with psamf_edge.load(device='cpu') as analyzer:\n"
        "    for clip in sys.argv[1:]:\n"
        "        try: analyzer(clip)\n"
        "        except psamf_edge.PsamfError: pass\n"
        # not ru_maxrss, which begins with what the process that started this one had
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"
    )
    for clip, samples in zip(clips, (3600, 3 * 3600), strict=True):
        done = subprocess.run([sys.executable, "-c", code, str(clip)], capture_output=True, text=True, check=True)
        # 250 MB for everything else; a quarter more for how a bytearray grows
        assert 1024 * int(done.stdout) < 250e6 + 1.25 * 4 * 16_000 * samples
