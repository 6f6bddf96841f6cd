"""Where results go: stdout, one file, or a folder with a file for each clip."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from psamf_edge.cli.files import check_file, replace_file, write_file
from psamf_edge.cli.group import describe, say
from psamf_edge.cli.inputs import INFIX
from psamf_edge.cli.streams import check_stdout, write_stdout
from psamf_edge.errors import UsageError
from psamf_edge.report import FORMATS, render
from psamf_edge.result import Result
from psamf_edge.words.subtitles import sidecars

STREAMED = "json"  # one line a clip, so that each can be written as soon as it is known
BINARY = "png"
BY_SUFFIX = {**{f".{name}": name for name in FORMATS}, ".jsonl": "json", ".htm": "html"}
MAX_STEM_BYTES = 200  # of a file's name: file systems take 255, and a number, INFIX and the suffix follow


class Sink(Protocol):
    """Takes results one by one."""

    def add(self, result: Result) -> None: ...

    def finish(self) -> int:
        """Write what is still held. Returns how many results that were."""


def open_sink(output: str | None, format: str | None, clips: Sequence[Path], transcript: Path | None = None) -> Sink:
    """Choose where results go, before any work is done.

    Args:
        output: a file; a folder, which is there or ends in a slash; None or "-" for stdout.
        format: of FORMATS; None: the one that the suffix of the file belongs to, else json.
        clips: what will be scored.
        transcript: the file that the user named for their words.

    Raises:
        UsageError: the output cannot hold what is asked for, cannot be written, or would replace an input.
        ImportError: the format needs a package that is not installed.
    """
    output = None if output == "-" else output
    is_folder = output is not None and (not os.path.basename(output) or os.path.isdir(output))
    suffix = "" if output is None or is_folder else Path(output).suffix.lower()
    format = format or BY_SUFFIX.get(suffix, STREAMED)
    several = len(clips) > 1 and not FORMATS[format].multi_clip
    if format == BINARY:
        importlib.import_module("matplotlib")  # which draws it: better missed now than after the last clip
    if output is None:
        check_stdout(", or name a file with -o")
        if several:
            raise UsageError(f"The format {format} holds one clip: name a folder with -o for {len(clips)} clips.")
        if format == BINARY and sys.stdout.isatty():
            raise UsageError("A png is no text for a terminal: name a file with -o, or redirect stdout.")
        return StreamSink(format) if format == STREAMED else FileSink(None, format)
    path = Path(output)
    if several or is_folder:
        if suffix in BY_SUFFIX or (os.path.lexists(path) and not os.path.isdir(path)):
            raise UsageError(f"{path} is a file; name a folder for the {format} files, with a slash at its end.")
        return FolderSink(path, format)
    target = os.path.realpath(path)
    for clip in clips:
        if target != os.path.realpath(clip) and target in map(os.path.realpath, sidecars(clip)):
            raise UsageError(
                f"{path} is where the transcript of {clip} is looked for; write to "
                f"{path.with_suffix(INFIX + path.suffix)} instead."
            )
    check_file(path, [*clips, *([transcript] if transcript else [])])
    return FileSink(path, format)


@contextlib.contextmanager
def saved_if_cut_short(save: Callable[[], str | None]) -> Iterator[None]:
    """Save what is done where the rest is interrupted or breaks off, which then goes its way.

    Args:
        save: writes it, and returns a line to print of how much it is; None if there was nothing.
    """
    try:
        yield
    except BaseException:
        try:
            said = save()
        except Exception as error:
            said = f"error: {describe(error)}"  # beside the one that decides how the run ends
        if said:
            say(said)
        raise


class StreamSink:
    """Each result on stdout as it comes."""

    def __init__(self, format: str) -> None:
        self._format = format

    def add(self, result: Result) -> None:
        write_stdout(render([result], self._format))

    def finish(self) -> int:
        return 0


class FileSink:
    """All results together at the end; on stdout if there is no path."""

    def __init__(self, path: Path | None, format: str) -> None:
        self._path, self._format = path, format
        self._results: list[Result] = []

    def add(self, result: Result) -> None:
        self._results.append(result)

    def finish(self) -> int:
        if not self._results:
            return 0
        content = render(self._results, self._format)
        if self._path is None:
            write_stdout(content)
        else:
            write_file(self._path, content)
        return len(self._results)


class FolderSink:
    """A file for each clip, `talk.sentiment.json`; a second clip of the same name gets `talk-2.sentiment.json`."""

    def __init__(self, folder: Path, format: str) -> None:
        self._folder, self._format = folder, format
        self._taken: set[str] = set()

    def add(self, result: Result) -> None:
        base = stem = _shortened(Path(result.clip).stem)
        number = 1
        while stem in self._taken:
            number += 1
            stem = f"{base}-{number}"
        self._taken.add(stem)
        self._folder.mkdir(parents=True, exist_ok=True)
        # Replaced if it is a link: nobody named it, and who made the folder may have put it there.
        replace_file(self._folder / f"{stem}{INFIX}.{self._format}", render([result], self._format))

    def finish(self) -> int:
        return 0


def _shortened(stem: str) -> str:
    data = os.fsencode(stem)
    return stem if len(data) <= MAX_STEM_BYTES else data[:MAX_STEM_BYTES].decode("utf-8", "ignore")
