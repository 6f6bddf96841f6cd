"""Kills of `psamf-edge infer` at random moments: of its decoder; of itself, by Ctrl-C, SIGTERM, and without notice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.endurance.clips import is_sentence
from benchmarks.endurance.readings import state

CLIPS = 30  # of a batch: more than any run gets to before its signal
STARTS_S = 20.0  # for a process to reach its first clip on a busy machine
ENDS_S = 30.0  # after which a process that was told to end counts as one that hangs
SHARED = Path("/dev/shm")
SIGNALS = {"ctrl-c": signal.SIGINT, "terminated": signal.SIGTERM, "killed": signal.SIGKILL}
CODES = {"ctrl-c": {130}, "terminated": {143}, "killed": {-9}}


class Batch:
    """One `psamf-edge infer`, with a temporary folder of its own; leaving the context ends it."""

    def __init__(self, clips: Path, *options: str | Path) -> None:
        self._folder = TemporaryDirectory()
        self._stdout, self._stderr, self.temporary = (
            Path(self._folder.name) / name for name in ("stdout", "stderr", "temporary")
        )
        self.temporary.mkdir()
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "psamf_edge", "infer", clips, *options],
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "TMPDIR": str(self.temporary)},
                preexec_fn=_heed_ctrl_c,
            )

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        self._folder.cleanup()

    @property
    def results(self) -> list[str]:
        """Lines of JSON."""
        return self._stdout.read_text().splitlines()

    @property
    def said(self) -> str:
        """All of stderr."""
        return self._stderr.read_text()

    def wait_for_model(self) -> None:
        """Until it says what it runs on, which is before the first clip. Raises TimeoutError."""
        until = time.monotonic() + STARTS_S
        while "runs on" not in self.said:
            if time.monotonic() > until:
                raise TimeoutError(f"No clip after {STARTS_S:g} s: {self.said}")
            time.sleep(0.01)

    def decoders(self) -> list[int]:
        """Process ids of its children."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):  # the thread has ended
                found += map(int, task.read_text().split())
        return found


def _heed_ctrl_c() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and so would all that this starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(clip: Path, kills: int, seed: int = 0, count: int = CLIPS) -> dict:
    """So many kills of each kind, in batches of `count` clips.

    Returns:
        the record of the section; `complaints` is empty where all is well.
    """
    rng = random.Random(seed)
    with batch_of(clip, count) as clips, TemporaryDirectory() as folder:
        with Batch(next(clips.iterdir())) as once:
            once.process.wait()
            truth = line_of(once.results[0])
        record = {"decoder killed": decoder_kills(clips, kills, truth, rng)}
        subtitles = written(clip, Path(folder) / "expected", "srt")
        for name in SIGNALS:
            print(f"  {name}", file=sys.stderr)
            record[name] = ended_runs(clips, name, kills, subtitles, rng)
    complaints = [f"{name}: {text}" for name, part in record.items() for text in part.pop("complaints")]
    return {**record, "complaints": complaints}


@contextmanager
def batch_of(clip: Path, count: int) -> Iterator[Path]:
    """A folder of so many clips that are all the same."""
    with TemporaryDirectory() as folder:
        for index in range(count):
            (Path(folder) / f"{index:02}{clip.suffix}").symlink_to(clip.resolve())
        yield Path(folder)


def line_of(line: str) -> str:
    """All that a line of JSON says of a clip but its name and the time it took."""
    return json.dumps({**json.loads(line), "clip": None, "timing_ms": None})


def written(clip: Path, folder: Path, format: str) -> bytes:
    """What the file of a clip holds."""
    command = [sys.executable, "-m", "psamf_edge", "infer", "-q", clip, "-f", format, "-o", folder / "one"]
    folder.mkdir()
    subprocess.run(command, check=True)
    return (folder / "one").read_bytes()


def decoder_kills(clips: Path, kills: int, truth: str, rng: random.Random) -> dict:
    """Decoders killed without notice; each costs at most the clip that it was at."""
    count = len(list(clips.iterdir()))
    struck = batches = scored = refused = 0
    complaints = []
    while struck < kills:
        with Batch(clips) as batch:
            batch.wait_for_model()
            while struck < kills and batch.process.poll() is None:
                time.sleep(rng.uniform(0.05, 1.5))
                for decoder in batch.decoders()[:1]:
                    with suppress(ProcessLookupError):
                        os.kill(decoder, signal.SIGKILL)
                        struck += 1
            code = batch.process.wait()
            lines = batch.results
            errors = [line for line in batch.said.splitlines() if line.startswith("psamf-edge: error: ")]
        batches, scored, refused = batches + 1, scored + len(lines), refused + len(errors)
        if len(lines) + len(errors) != count:
            complaints.append(f"{len(lines)} results and {len(errors)} errors for {count} clips.")
        if code != (1 if errors else 0):
            complaints.append(f"exit code {code} after {len(errors)} errors.")
        complaints += [f"no sentence: {error}" for error in errors if not is_sentence(error)]
        complaints += ["another score than alone."] * sum(line_of(line) != truth for line in lines)
    return {"kills": struck, "batches": batches, "clips": scored + refused, "scored": scored, "refused": refused,
            "complaints": complaints}  # fmt: skip


def ended_runs(clips: Path, name: str, kills: int, subtitles: bytes, rng: random.Random) -> dict:
    """Runs ended by a signal: how long until the prompt is back and the decoder is gone, and what they leave."""
    prompt_ms, decoder_ms = [], []
    found: Counter[str] = Counter()
    complaints = []
    shared = set(os.listdir(SHARED))
    for _ in range(kills):
        with TemporaryDirectory() as folder, Batch(clips, "-f", "srt", "-o", Path(folder)) as batch:
            batch.wait_for_model()
            time.sleep(rng.uniform(0, 3))
            decoders = batch.decoders()
            began = time.monotonic()
            batch.process.send_signal(SIGNALS[name])
            if not wait_until(lambda batch=batch: batch.process.poll() is not None):
                complaints.append(f"it went on for {ENDS_S:g} s: {batch.said[-500:]}")
                continue
            code = batch.process.returncode
            prompt_ms.append(1e3 * (time.monotonic() - began))
            gone = wait_until(lambda decoders=decoders: all(state(pid) in "ZX" for pid in decoders))
            decoder_ms.append(1e3 * (time.monotonic() - began))
            files = list(Path(folder).iterdir())
            whole = [file for file in files if not file.name.startswith(".")]
            complaints += [f"{file.name} is not whole." for file in whole if file.read_bytes() != subtitles]
            found.update({"files": len(whole), "unfinished files under other names": len(files) - len(whole)})
            left = os.listdir(batch.temporary)
            said = batch.said
        if code not in CODES[name]:
            complaints.append(f"exit code {code}.")
        if not gone:
            complaints.append(f"a decoder was left after {ENDS_S:g} s.")
        if "Traceback" in said:
            complaints.append(f"a traceback: {said[-500:]}")
        if left:
            complaints.append(f"temporary files were left: {left}.")
    found["left in /dev/shm"] = sum(not in_use(SHARED / left) for left in set(os.listdir(SHARED)) - shared)
    if found["left in /dev/shm"]:
        complaints.append(f"{found['left in /dev/shm']} files were left in {SHARED}.")
    if name != "killed" and found["unfinished files under other names"]:
        complaints.append(f"{found['unfinished files under other names']} unfinished files were left.")
    times = {"prompt": prompt_ms, "decoder gone": decoder_ms}
    waits = {f"{what}, ms": {"median": round(median(ms)), "most": round(max(ms))} for what, ms in times.items() if ms}
    return {"kills": kills, **found, **waits, "complaints": complaints}


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether it holds before ENDS_S have passed."""
    until = time.monotonic() + ENDS_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def in_use(path: Path) -> bool:
    """Whether a process that lives has the file mapped: another program's, which came to be meanwhile."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # ended, or not ours to look into
            if str(path) in maps.read_text():
                return True
    return not path.exists()
