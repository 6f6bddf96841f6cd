"""One rival of benchmarks.peers in a process of its own: `python -m benchmarks.peer_child REQUEST`.

It tells that it is ready, or why it cannot be; then scores the utterance whose number it reads, line by line, and tells
its memory at the end. Answers are lines of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as psamf_edge.cli does; before NumPy is imported

import numpy as np

from psamf_edge.bench.memory import resident_mb
from psamf_edge.errors import MissingDependencyError
from psamf_edge.plan import Features

WEIGHTS = Path(__file__).parents[1] / "compile" / "weights" / "default"
Score = Callable[[Features], float | None]  # None: its score means nothing


def main() -> None:
    """Serve until stdin ends."""
    request = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # compilers print

    def answer(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    utterances = load_utterances(request["utterances"])
    bare = resident_mb()
    try:
        score = PEERS[request["kind"]](request)
        for features in utterances:  # every length once: kernels are chosen, graphs compiled, buffers taken
            score(features)
    except (MissingDependencyError, UnavailableError) as error:
        answer(unavailable=str(error))
        return
    answer(ready=True)
    for line in sys.stdin:
        features = utterances[int(line)]
        start = time.perf_counter()
        value = score(features)
        answer(ms=1e3 * (time.perf_counter() - start), score=value)
    now = resident_mb()
    answer(**({} if now is None else {"resident_mb": now[0], "peak_mb": now[1], "bare_mb": bare[0]}))


class UnavailableError(Exception):
    """This rival cannot run here; says why."""


def save_utterances(utterances: list[Features], path: Path) -> None:
    """Into one .npz file."""
    arrays = {f"{name}{i}": getattr(u, name) for i, u in enumerate(utterances) for name in ("ids", "audio", "face")}
    np.savez(path, **arrays)


def load_utterances(path: str) -> list[Features]:
    """What `save_utterances` wrote."""
    with np.load(path) as file:
        return [Features(*(file[f"{name}{i}"] for name in ("ids", "audio", "face"))) for i in range(len(file) // 3)]


def backend(request: dict) -> Score:
    """A bundle through the runtime's own backend, as every clip goes."""
    from psamf_edge.backends import open_backend
    from psamf_edge.bundle import open_bundle

    opened = open_backend(open_bundle(request["bundle"]), request["device"], request["threads"])
    return lambda features: opened.run(features).score


def eager(request: dict) -> Score:
    """The student's weights in PyTorch, float32, asked for the same subsets of modalities as the runtime asks for."""
    return pytorch(request["threads"], lambda student: student)


def inductor(request: dict) -> Score:
    """The same through torch.compile, for lengths that change."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise UnavailableError("torch.compile needs a C++ compiler, and there is none here")
    import torch

    return pytorch(request["threads"], lambda student: torch.compile(student, dynamic=True))


def pytorch(threads: int, prepare: Callable) -> Score:
    """A student in PyTorch, prepared."""
    import torch

    from psamf_edge.compile.model.student import load_student
    from psamf_edge.plan import presence_rows

    torch.set_num_threads(threads)
    student = prepare(load_student(WEIGHTS))

    def score(features: Features) -> float:
        inputs = []
        for values in (features.ids, features.audio, features.face):
            inputs += [torch.from_numpy(values)[None], torch.ones(1, len(values))]  # (1, T, ...) and mask (1, T)
        with torch.inference_mode():
            out = student(*inputs, torch.from_numpy(presence_rows(features.present))[None])
        return float(out.score[0, 0].clamp(-3, 3))

    return score


def released(request: dict) -> Score:
    """PSA-MF at its released size, which pads every utterance to 50 tokens and 500 steps. Random weights."""
    import torch

    from benchmarks.released_size import ReleasedSizePsaMf, example_inputs

    torch.set_num_threads(request["threads"])
    model, inputs = ReleasedSizePsaMf().eval(), example_inputs()

    def score(features: Features) -> None:
        with torch.inference_mode():
            model(*inputs)

    return score


PEERS = {"backend": backend, "eager": eager, "inductor": inductor, "released": released}

if __name__ == "__main__":
    main()
