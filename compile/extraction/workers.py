"""Worker processes (see worker), shared out to threads."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from psamf_edge.errors import InputError, IntegrityError, MissingDependencyError, PsamfError, UsageError
from psamf_edge.media.child import TOP

# What meets every clip. Any other error concerns one clip.
FATAL = {kind.exit_code: kind for kind in (UsageError, MissingDependencyError, IntegrityError)}
# One BLAS thread each, as in psamf_edge.cli: the processes share the cores already.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}


class Workers:
    """`count` worker processes; a context manager. Each starts with the first clip that it gets."""

    def __init__(self, bundle: Path | None, count: int, limits: Mapping[str, int] | None = None) -> None:
        self._loaded = {"bundle": bundle and str(bundle.absolute()), "limits": limits}  # by each of them
        self._idle: queue.SimpleQueue[subprocess.Popen | None] = queue.SimpleQueue()
        self._started: list[subprocess.Popen] = []
        self._closed = False
        for _ in range(count):
            self._idle.put(None)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for process in self._started:
            process.wait()
            process.stdout.close()
            with suppress(OSError):  # what it did not read any more
                process.stdin.close()

    def stop(self) -> None:
        """End all processes, also in the middle of a clip: a part is written whole or not at all."""
        self._closed = True
        for process in self._started:
            process.kill()

    def extract(self, clip: Path, part: Path) -> None:
        """Have the features of a clip written to `part`. Waits for a worker; any thread may call it.

        Raises:
            InputError: the clip cannot be read, or the worker died over it. The next clip gets a new worker.
            PsamfError: something that meets every clip.
        """
        process = self._idle.get()
        try:
            if process is None:
                process = self._start()
            answer = _ask(process, {"clip": str(clip.absolute()), "part": str(part.absolute())})
        except (EOFError, OSError) as error:
            if process is not None:
                process.kill()
            process = None
            raise InputError(f"{clip}: the process that read it died; convert the clip and run again.") from error
        finally:
            self._idle.put(process)
        _check(answer)

    def _start(self) -> subprocess.Popen:
        if self._closed:
            raise EOFError
        process = subprocess.Popen(
            [sys.executable, "-m", "psamf_edge.compile.extraction.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=TOP,  # `-m` looks in the working directory first: not in one that the user's files may be in
            env=os.environ | ENVIRONMENT,
        )
        self._started.append(process)
        _check(_ask(process, self._loaded))
        return process


def _ask(process: subprocess.Popen, request: object) -> dict:
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line.endswith("\n"):
        raise EOFError
    return json.loads(line)


def _check(answer: dict) -> None:
    if answer:
        kind: type[PsamfError] = FATAL.get(answer["exit_code"], InputError)
        raise kind(answer["error"])
