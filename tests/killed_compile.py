"""Compiles that die without a word: `python tests/killed_compile.py WEIGHTS MODELS ROOT SCENES`

What takes time is imported once, and each compile is a fork. A scene is compiled again and again into ROOT/SCENE/, once
for each of its moments, in which it dies, and once to the end. A moment is a stage ("lower": half of its first file is
written), "after" a stage, or one that DEADLY names. Then two processes want to make one output. Each end is a line of
JSON: scene, moment, exit code, whether there is a bundle. MODELS holds what the segments would be exported to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import onnx

from psamf_edge.backends import engine_builder
from psamf_edge.compile import command, work
from psamf_edge.compile.export import onnx_export, pack, quantise
from psamf_edge.compile.quality import stages
from psamf_edge.compile.quality.bounds import Bounds, Quality

WEIGHTS, MODELS, ROOT = map(Path, sys.argv[1:4])
WAIT = 0.01  # s between two looks at what another process does


def die(*args, **options) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(function: Callable, count: int = 1) -> Callable:
    """The function, which dies at the end of its call of this number."""
    calls = []

    def deadly(*args, **options) -> None:
        function(*args, **options)
        calls.append(args)
        if len(calls) == count:
            die()

    return deadly


DEADLY = {  # what is replaced by what
    "quantise": (quantise, "quantize_dynamic", after(quantise.quantize_dynamic)),
    "report": (stages, "write_file", die),
    "pack": (pack, "write_synced", after(pack.write_synced, 3)),
    "rename": (work.Work, "note_packed", after(work.Work.note_packed)),
    "exchange": (pack, "exchange", after(pack.exchange)),
    "packed": (work.Work, "close", die),
    "clearing": (work, "_remove", after(work._remove, 4)),
}


def run(moment: str, output: Path, log: Path, how: dict) -> None:
    """Compile as the scene wants it, and die at this moment."""
    write = work.Work._write

    def deadly(self: work.Work, name: str, digest: str, files: dict[str, bytes]) -> None:
        if name == moment:  # some files of the stage are there, its record is not
            file, data = next(iter(files.items()))
            target = self.folder / f"{name}-half.new"
            target.mkdir()
            (target / file).write_bytes(data[: len(data) // 2])
            die()
        write(self, name, digest, files)
        if moment == f"after {name}":
            die()

    work.Work._write = deadly
    if moment in DEADLY:
        setattr(*DEADLY[moment])
    report = output.with_suffix(".html") if how["report"] else None
    quality = Quality(Bounds(gap=how["gap"]), mixed=how["mixed"], report=report)
    with log.open("w", buffering=1) as lines:
        command.compile_bundle(
            WEIGHTS,
            output,
            how["target"],
            how["precision"],
            "tiny",
            how["force"],
            lambda line: print(line, file=lines),
            quality=quality,
        )


def first_of_two() -> None:
    """Wait in the middle, until the second has given up."""
    write = work.Work._write

    def slow(self: work.Work, name: str, digest: str, files: dict[str, bytes]) -> None:
        while name == "judge" and not (ROOT / "two-second.txt").exists():
            (ROOT / "judging").touch()
            time.sleep(WAIT)
        write(self, name, digest, files)

    work.Work._write = slow
    command.compile_bundle(WEIGHTS, ROOT / "two" / "out.psamf", "cpu", "int8", "tiny")


def second_of_two() -> None:
    """What the command line says."""
    from psamf_edge.cli import main

    with (ROOT / "said").open("w") as sys.stderr:
        main(["compile", str(WEIGHTS), "-o", str(ROOT / "two" / "out.psamf"), "--name", "tiny"])


def forked(function: Callable[..., None], *args) -> int:
    """The number of a child that runs it."""
    child = os.fork()
    if child == 0:
        try:
            function(*args)
            os._exit(0)
        except SystemExit as end:
            os._exit(end.code)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def end(scene: str, moment: str, child: int) -> None:
    """Tell how it ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([scene, moment, code, (ROOT / scene / "out.psamf").exists()]), flush=True)


def main() -> None:
    onnx_export.export = lambda segment: onnx.load(MODELS / f"{segment.plan.name}.onnx")
    engine_builder.EngineBuilder.build = lambda self, model, name, *rest: b"engine of " + name.encode()
    for scene, how in json.loads(sys.argv[4]).items():
        for moment in [*how["moments"], "none"]:
            arguments = (moment, ROOT / scene / "out.psamf", ROOT / f"{scene}-{moment}.txt", how)
            end(scene, moment, forked(run, *arguments))
    child = forked(first_of_two)
    while not (ROOT / "judging").exists():
        time.sleep(WAIT)
    end("two", "second", forked(second_of_two))
    os.rename(ROOT / "said", ROOT / "two-second.txt")
    end("two", "none", child)


if __name__ == "__main__":
    main()
