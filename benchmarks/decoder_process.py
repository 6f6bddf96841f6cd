"""What decoding in a process of its own adds to a clip: python -m benchmarks.decoder_process [--clip CLIP] [--rounds N]

The same clips decoded to the same messages, by the child (psamf_edge.media.reader) and by the same code in this process
(psamf_edge.media.worker), in turns. Further clips: both are warm. The first clip of a process, each in a new one: from
the start of Python to the last frame, with the model loaded beside the child's start as `psamf-edge infer` does it, or
PyAV imported and the model loaded one after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, save, summary, take_turns
from psamf_edge.bench.suite import SAMPLE
from psamf_edge.media.answers import to_event
from psamf_edge.media.child import TOP
from psamf_edge.media.limits import Limits
from psamf_edge.media.protocol import Kind
from psamf_edge.media.reader import MediaReader

TARGET_MS = 30  # what the child may add to a clip
FRAME_RATE, MAX_SIDE = 10.0, 640  # as the runtime reads clips
HERE, CHILD = "in one process", "with the child"
FIRST = "import time; began = {began}; from benchmarks.decoder_process import first; first({child}, {clip!r}, began)"
FIRST_RUNS = 15  # each takes about half a second


def decode_here(clip: Path) -> int:
    """Frames and sound as the reader would give them, without a process between. Returns the number of frames."""
    from psamf_edge.media.worker import read_clip

    frames, warnings, limits = 0, [], Limits()
    kinds = {Kind.FRAME, Kind.AUDIO}

    def emit(kind: Kind, fields: dict[str, Any], payload: Any = b"") -> None:
        nonlocal frames
        if kind in kinds:  # the caller's own copy, as the reader makes one
            to_event(kind, fields, np.frombuffer(payload, np.uint8).copy(), warnings, limits.seconds)
        frames += kind is Kind.FRAME

    request = {"video": True, "audio": True, "frame_rate": FRAME_RATE, "max_side": MAX_SIDE, "limits": asdict(limits)}
    read_clip(request, os.open(clip, os.O_RDONLY), emit)
    return frames


def decode_through(reader: MediaReader, clip: Path) -> int:
    """The same through the child."""
    for event in reader.read(clip, frame_rate=FRAME_RATE, max_side=MAX_SIDE):
        last = event  # one event at a time is held, as by the runtime
    return last.frames


def first(child: bool, clip: str, began: float) -> None:
    """In a new process: load the model and decode one clip; print the milliseconds since `began`."""
    reader = MediaReader() if child else None
    from psamf_edge.scorer import Scorer

    if not child:
        import psamf_edge.media.worker  # noqa: F401 (the import of PyAV is part of it)
    scorer = Scorer(None, "cpu", 1, None)
    frames = decode_through(reader, Path(clip)) if child else decode_here(Path(clip))
    elapsed = 1e3 * (time.perf_counter() - began)
    print(json.dumps({"ms": elapsed, "frames": frames}))
    scorer.close()
    if reader:
        reader.close()


def further_clips(clip: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, both ways in turn."""
    with MediaReader() as reader:
        assert decode_through(reader, clip) == decode_here(clip)
        return take_turns({HERE: lambda: decode_here(clip), CHILD: lambda: decode_through(reader, clip)}, rounds)


def first_clips(clip: Path, runs: int) -> dict[str, list[float]]:
    """The same for the first clip of a process; bytecode is cached, as it is after an installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times: dict[str, list[float]] = {HERE: [], CHILD: []}
    for run in range(runs + 1):
        for name in times:
            # perf_counter, which all processes share, before the process is there
            code = FIRST.format(began=time.perf_counter(), child=name == CHILD, clip=str(clip))
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP, env=environment
            )
            if run:  # the first of each fills the caches
                times[name].append(json.loads(done.stdout)["ms"])
    return times


def table(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Each way, and what the child adds: the difference within each round, where both met the same machine."""
    added = np.subtract(times[CHILD], times[HERE]).tolist()
    return {name: summary(values) for name, values in times.items()} | {"added": summary(added)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, action="append", help="repeat it for several; the sample by default")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--output", type=Path, help="write here, in place of benchmarks/results")
    arguments = parser.parse_args()
    clips = {}
    for clip in arguments.clip or [SAMPLE]:
        further = table(further_clips(clip.absolute(), arguments.rounds))
        first_of_all = table(first_clips(clip.absolute(), min(arguments.rounds, FIRST_RUNS)))
        clips[clip.name] = {"further clips": further, "first clip": first_of_all}
        for title, rows in clips[clip.name].items():
            for name, row in rows.items():
                print(f"{clip.name}, {title}, {name}: {row}")
    worst = max(rows["added"]["p50"] for found in clips.values() for rows in found.values())
    record = {"machine": machine(), "target_ms": TARGET_MS, "most_added_ms": worst, "clips": clips}
    print(f"the child adds at most {worst} ms (median); the target is {TARGET_MS} ms")
    print(f"written to {save('decoder_process', record, arguments.output)}")
    return int(worst > TARGET_MS)


if __name__ == "__main__":
    sys.exit(main())
