"""Cold start and throughput: both need processes of their own, since the threads of one share a model in turns."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psamf_edge.bench.energy import Meter
from psamf_edge.bench.series import Series
from psamf_edge.bench.stages import OnRound, by_name
from psamf_edge.errors import InputError, IntegrityError, MissingDependencyError, PsamfError, UsageError
from psamf_edge.media.child import TOP

BOOTSTRAP = "import time; began = time.perf_counter(); from psamf_edge.bench.child import main; main(began)"
COLD = "cold start"
MEMORY, ENERGY = "memory", "energy"


@dataclass(frozen=True)
class Job:
    """What every process does: the arguments of Analyzer and of its call."""

    bundle: str | None
    device: str
    threads: int
    clip: str
    text: str | None
    limits: Mapping[str, int] | None = None

    @classmethod
    def of(
        cls,
        bundle: Path | None,
        device: str,
        threads: int,
        clip: Path,
        text: str | None,
        limits: Mapping[str, int] | None = None,
    ) -> Job:
        """With paths that hold in any working directory."""
        path = None if bundle is None else str(Path(bundle).absolute())
        return cls(path, device, threads, str(Path(clip).absolute()), text, limits)


class Child:
    """One process of `child.main`. Leaving the context ends it, whatever it is doing."""

    def __init__(self, job: Job, task: str, **more: Any) -> None:
        request = asdict(job) | {"task": task, "spawned": time.perf_counter(), **more}
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=TOP,  # `-c` looks in the working directory first: not in one that the user's files may be in
        )

    def answer(self) -> dict[str, Any]:
        """Its next line. Raises the error that it met."""
        line = self._process.stdout.readline()
        if not line:
            raise PsamfError(
                f"A process of the benchmark died (code {self._process.wait()}): its last words, if any, stand above."
            )
        fields = json.loads(line)
        if "error" in fields:
            kinds = {kind.exit_code: kind for kind in (InputError, UsageError, MissingDependencyError, IntegrityError)}
            raise kinds.get(fields["exit_code"], PsamfError)(fields["error"])
        return fields

    def go(self) -> None:
        """Let a process that waits begin."""
        with suppress(BrokenPipeError):  # it has died, and `answer` says so
            self._process.stdin.write("go\n")
            self._process.stdin.flush()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # one that still waits for its line ends by itself, and its decoder with it
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def cold_start(jobs: Mapping[str, Job], runs: int, on_round: OnRound | None = None) -> list[Series]:
    """The first clip of a new process, `runs` times, models in turn. The files are in the system's cache by then."""
    records: dict[str, list[dict]] = {label: [] for label in jobs}
    for turn in range(runs):
        for label, job in jobs.items():
            with Child(job, "cold") as child:
                records[label].append(child.answer())
        if on_round:
            on_round(turn + 1, runs)
    found = []
    for label, answers in records.items():
        found += by_name(label, COLD, [answer["ms"] for answer in answers])
        stages = [{f"first clip/{name}": ms for name, ms in a["stages"].items() if name != "total"} for a in answers]
        found += by_name(label, COLD, stages)
        if all(answer["peak_mb"] for answer in answers):
            found += by_name(label, COLD, [{"peak memory": answer["peak_mb"]} for answer in answers], "MB")
    return found


def throughput_group(processes: int) -> str:
    """The group of the series of one concurrency."""
    return f"throughput, {processes} process{'es' if processes > 1 else ''}"


def processes_of(group: str) -> int:
    """The number in `throughput_group`."""
    return int(group.split()[1])


def throughput(
    label: str, job: Job, processes: int, clips: int, warmup: int, meters: Sequence[Meter] = (), gpu: bool = False
) -> list[Series]:
    """So many processes score the clip again and again at the same time.

    Args:
        label: of the model.
        job: what each does.
        processes: how many.
        clips: of each process.
        warmup: clips of each before the clock starts.
        meters: what measures energy meanwhile.
        gpu: also tell what memory each takes on the GPU.

    Returns:
        Time of each clip, and clips a second while all were at it. With one process, its memory and the energy of a
        clip too.
    """
    with ExitStack() as stack:
        crew = [stack.enter_context(Child(job, "score", warmup=warmup, clips=clips, gpu=gpu)) for _ in range(processes)]
        for child in crew:
            child.answer()
        for meter in meters:
            meter.start()
        began = time.perf_counter()
        for child in crew:
            child.go()
        answers = [child.answer() for child in crew]
        seconds = time.perf_counter() - began
        joules = {meter.name: meter.stop() for meter in meters}
    group = throughput_group(processes)
    ends = [answer["ends"] for answer in answers]
    times = tuple(1e3 * ms for each in ends for ms in np.diff([began, *each]).tolist())
    found = [
        Series(label, group, "clip", "ms", times),
        Series(label, group, "clips a second", "clips/s", (rate(began, ends),)),
    ]
    if processes == 1:
        memory = {"resident": "resident_mb", "peak": "peak_mb", "decoder's process": "decoder_mb", "GPU": "device_mb"}
        (answer,) = answers
        found += [
            Series(label, MEMORY, name, "MB", (answer[key],)) for name, key in memory.items() if answer[key] is not None
        ]
        for name, value in joules.items():
            found.append(Series(label, ENERGY, f"{name}, each clip", "J", (value / clips,)))
            found.append(Series(label, ENERGY, f"{name}, mean power", "W", (value / seconds,)))
    return found


def rate(began: float, ends: Sequence[Sequence[float]]) -> float:
    """Clips a second while every process was still at work; of the clip that was in progress then, its share."""
    until = min(each[-1] for each in ends)
    done = sum(np.interp(until, [began, *each], np.arange(len(each) + 1)) for each in ends)
    return float(done / (until - began))
