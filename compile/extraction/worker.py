"""The process that extracts: a line of JSON in (clip, part), the features into the part, a line of JSON out.

It ends with the process that started it, whose end closes its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from psamf_edge.cli.group import describe, exit_code


def main() -> None:
    """Serve until the input ends. The first line out says that the models are loaded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends this one
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    loaded = json.loads(sys.stdin.readline())

    def answer(error: Exception | None = None) -> None:
        fields = {"error": describe(error), "exit_code": exit_code(error)} if error else {}
        print(json.dumps(fields), file=answers, flush=True)

    try:
        from psamf_edge.compile.extraction.clips import ClipExtractor

        extractor = ClipExtractor(loaded["bundle"] and Path(loaded["bundle"]), loaded["limits"])
    except Exception as error:
        answer(error)
        return
    answer()
    for line in sys.stdin:
        request, problem = json.loads(line), None
        try:
            extractor.extract(Path(request["clip"])).save(Path(request["part"]))
        except Exception as error:
            problem = error
        answer(problem)


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the process that asked was killed
        main()
