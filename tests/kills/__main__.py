"""Kill -9 at random moments, go on, compare: `python -m tests.kills --rounds 20 [--only JOB,...]`

Each job of jobs.py is first run without a stop. Then it is started, killed at a random moment of a random stage, looked
at for anything half-written, and started again in the same folder, until as many kills were made as there are rounds.
What it has left at the end must be, file by file, what the run without a stop left, and nothing else, there or in the
folder for temporary files. The figures go to benchmarks/results/kills.json, where those of jobs that are not run now
stay as they are; the exit code is 1 where one is amiss.

Children are forked, so that each attempt costs no import of PyTorch. The parent computes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psamf_edge
from benchmarks.measure import RESULTS, machine
from tests.kills.jobs import JOBS, LOG, POLL, Job, follow, half_written, missing, outcome, prepare

STOP_SHARE = 0.2  # of the attempts that go on after a kill: so many are left alone, so that all stages get their kills

BY_NAME = {job.name: job for job in JOBS}
SUMS = ("kills", "finished after kills", "equal to a run without a stop")


class Attempt:
    """A child that runs a function, its output in a file. Until it is waited for its number cannot be another's."""

    def __init__(self, function: Callable[[], None], log: Path, temporary: Path) -> None:
        self.started = time.monotonic()
        self._code: int | None = None
        self._child = os.fork()
        if self._child:
            return
        code = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
            function()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # nothing of the parent's is to be cleaned up here

    def is_over(self) -> bool:
        if self._code is None:
            number, status = os.waitpid(self._child, os.WNOHANG)
            if number:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is not None

    def kill(self) -> bool:
        """Whether it was still running."""
        if self.is_over():
            return False
        os.kill(self._child, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def wait(self) -> int:
        while not self.is_over():
            time.sleep(POLL)
        return self._code


class Campaign:
    """Kills of one job. folder: where `inputs` is, and all else is made."""

    def __init__(self, job: Job, folder: Path, seed: int) -> None:
        self.job, self.seed, self.chance = job, seed, random.Random(f"{seed} {job.name}")
        self.inputs, self.place, self.temporary = folder / "inputs", folder / "place", folder / "temporary"
        self.log = folder / LOG
        self.kills = self.runs = self.equal = 0
        self.stages: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._expected: dict[str, str] = {}
        self._usual: set[str] = set()  # what libraries leave among temporary files without a kill, too
        self._stages: dict[str, float] = {}  # of the run without a stop: how long it was in each

    def run(self, rounds: int, seconds: float) -> None:
        """The run without a stop, then so many kills, or as many as there is time for."""
        last = time.monotonic() + seconds
        self._clear()
        attempt, since = self._start(), time.monotonic()
        seen: list[tuple[str, float]] = []

        def note(stage: str) -> bool:
            if not seen or seen[-1][0] != stage:
                seen.append((stage, time.monotonic() - since))
            return False

        follow(self.job, self.log, self.place, attempt.is_over, note)
        ends = [*(began for _, began in seen[1:]), time.monotonic() - since]
        self._stages = {stage: end - began for (stage, began), end in zip(seen, ends, strict=True)}
        if attempt.wait() != 0:
            self._complain("the run without a stop failed")
            return
        self._expected, self._usual = outcome(self.place), self._temporaries()
        while self.kills < rounds and len(self.complaints) < rounds and time.monotonic() < last:
            self._series(rounds)

    def record(self) -> dict:
        return {
            "seed": self.seed,
            "kills": self.kills,
            "finished after kills": self.runs,
            "equal to a run without a stop": self.equal,
            "kills by stage": dict(self.stages),
            "complaints": self.complaints,
        }

    def _series(self, rounds: int) -> None:
        """From an empty folder to the end, with kills on the way."""
        self._clear()
        order = list(self._stages)
        least, killed = 0, 0
        while self.kills < rounds and not (killed and self.chance.random() < STOP_SHARE):
            aim = self.chance.choice(order[least:])
            attempt = self._start()
            follow(self.job, self.log, self.place, attempt.is_over, lambda stage, aim=aim: stage == aim)
            time.sleep(self.chance.uniform(0, self._stages[aim]))
            stage = self.job.stage(self.log.read_text(), self.place)
            if not attempt.kill():
                break
            killed, self.kills = killed + 1, self.kills + 1
            self.stages[stage] += 1
            least = max(least, order.index(stage) if stage in order else 0)
            for found in half_written(self.place):
                self._complain(f"after a kill in {stage}: {found}")
        else:
            attempt = self._start()
        code = attempt.wait()
        if code != 0:
            self._complain(f"the exit code is {code} after {killed} kills")
            return
        self.runs += bool(killed)
        made = outcome(self.place)
        left = sorted(self._temporaries() - self._usual)
        differing = sorted(name for name in {*made, *self._expected} if made.get(name) != self._expected.get(name))
        if differing:
            self._complain(f"after {killed} kills these differ: {', '.join(differing)}")
        if left:
            self._complain(f"after {killed} kills these are left over: {', '.join(left)}")
        self.equal += bool(killed) and not differing

    def _temporaries(self) -> set[str]:
        return {path.name for path in self.temporary.iterdir()}

    def _start(self) -> Attempt:
        self.log.write_text("")  # it is there before the child has opened it
        return Attempt(lambda: self.job.run(self.inputs, self.place), self.log, self.temporary)

    def _clear(self) -> None:
        for folder in (self.place, self.temporary):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def _complain(self, what: str) -> None:
        said = self.log.read_text().strip().splitlines()
        self.complaints.append(what + (f" ({said[-1]})" if said else ""))
        print(f"{self.job.name}: {self.complaints[-1]}", file=sys.stderr)


def load() -> None:
    """Import what costs time, once for all children."""
    import torch

    import psamf_edge.cli
    import psamf_edge.compile.distillation.source
    import psamf_edge.compile.engines.target
    import psamf_edge.compile.finished
    import psamf_edge.compile.quality.stages
    import psamf_edge.compile.stages
    import psamf_edge.compile.training.student
    import psamf_edge.compile.training.teacher  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports two seconds' worth


def kill_all(folder: Path, jobs: list[Job], rounds: int, seconds: float, seed: int) -> dict[str, dict]:
    """The record of each job. rounds, seconds: kills of each, and the time for them."""
    load()
    (folder / "temporary").mkdir()
    if Attempt(lambda: prepare(folder / "inputs"), folder / LOG, folder / "temporary").wait() != 0:
        raise RuntimeError(f"The inputs could not be made: {(folder / LOG).read_text()}")
    teacher, records = folder / "inputs" / "teacher.run", {}
    for job in jobs:
        if job.name == "distill" and not teacher.exists():
            Attempt(lambda: BY_NAME["train teacher"].run(folder / "inputs", folder), folder / LOG, folder).wait()
            (folder / "weights").rename(teacher)
        if missing(job):
            records[job.name] = {"skipped": f"{job.needs} is not installed"}
            continue
        campaign = Campaign(job, folder, seed)
        campaign.run(rounds, seconds)
        records[job.name] = campaign.record()
        print(job.name, json.dumps(records[job.name]), file=sys.stderr, flush=True)
        if job.name == "train teacher":  # whom `distill` takes
            shutil.copytree(campaign.place / "weights", teacher)
    return records


def totals(jobs: dict[str, dict]) -> dict[str, int]:
    """Over all jobs that were run."""
    run = [record for record in jobs.values() if "skipped" not in record]
    counts = {name: sum(record[name] for record in run) for name in SUMS}
    return {**counts, "complaints": sum(len(record["complaints"]) for record in run)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="kills of each job")
    parser.add_argument("--minutes", type=float, default=60, help="of each job at most")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", help=f"of these jobs, separated by commas: {', '.join(BY_NAME)}")
    parser.add_argument("--output", type=Path, default=RESULTS / "kills.json")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(BY_NAME)
    if unknown := set(names) - set(BY_NAME):
        parser.error(f"no job {', '.join(sorted(unknown))}; choose from {', '.join(BY_NAME)}")
    with tempfile.TemporaryDirectory() as folder:
        jobs = [BY_NAME[name] for name in names]
        made = kill_all(Path(folder), jobs, arguments.rounds, 60 * arguments.minutes, arguments.seed)
    before = json.loads(arguments.output.read_text())["jobs"] if arguments.only and arguments.output.exists() else {}
    records = before | made
    document = {
        "command": "python -m tests.kills",
        "psamf_edge": psamf_edge.__version__,
        "machine": machine(),
        **totals(records),
        "jobs": {name: records[name] for name in BY_NAME if name in records},
    }
    arguments.output.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))
    return 1 if document["complaints"] else 0


if __name__ == "__main__":
    sys.exit(main())
