"""Where results go: stdout, one file, or a folder with a file for each clip."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from psamf_edge.cli.inputs import INFIX
from psamf_edge.cli.streams import check_stdout, write_stdout
from psamf_edge.errors import UsageError
from psamf_edge.report import FORMATS, render
from psamf_edge.result import Result
from psamf_edge.words.subtitles import SUFFIXES as TRANSCRIPT_SUFFIXES

STREAMED = "json"  # one line a clip, so that each can be written as soon as it is known
BINARY = "png"
MAX_STEM_BYTES = 200  # of a file's name: file systems take 255, and a number, INFIX and the suffix follow


class Sink(Protocol):
    """Takes results one by one."""

    def add(self, result: Result) -> None: ...

    def finish(self) -> None:
        """Write what is still held."""


def open_sink(output: Path | None, format: str, clips: Sequence[Path]) -> Sink:
    """Choose where results go, before any work is done.

    Raises:
        UsageError: the output cannot hold what is asked for, or would replace an input.
    """
    several = len(clips) > 1 and not FORMATS[format].multi_clip
    if output is None:
        check_stdout()
        if several:
            raise UsageError(f"The format {format} holds one clip: name a folder with -o for {len(clips)} clips.")
        if format == BINARY and sys.stdout.isatty():
            raise UsageError("A png is no text for a terminal: name a file with -o, or redirect stdout.")
        return StreamSink(format) if format == STREAMED else FileSink(None, format)
    if several or output.is_dir():
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file; name a folder for the {format} files of {len(clips)} clips.")
        return FolderSink(output, format)
    for clip in clips:
        if output.resolve() == clip.resolve():
            raise UsageError(f"{output} is one of the clips; name another file to write to.")
        if output.resolve() in {clip.with_suffix(suffix).resolve() for suffix in TRANSCRIPT_SUFFIXES}:
            raise UsageError(
                f"{output} is where the transcript of {clip} is looked for; write to "
                f"{output.with_suffix(INFIX + output.suffix)} instead."
            )
    if not output.parent.is_dir():
        raise UsageError(f"There is no folder {output.parent} to write {output.name} in; make it first.")
    return FileSink(output, format)


class StreamSink:
    """Each result on stdout as it comes."""

    def __init__(self, format: str) -> None:
        self._format = format

    def add(self, result: Result) -> None:
        write_stdout(render([result], self._format))

    def finish(self) -> None: ...


class FileSink:
    """All results together at the end; on stdout if there is no path."""

    def __init__(self, path: Path | None, format: str) -> None:
        self._path, self._format = path, format
        self._results: list[Result] = []

    def add(self, result: Result) -> None:
        self._results.append(result)

    def finish(self) -> None:
        if not self._results:
            return
        content = render(self._results, self._format)
        if self._path is None:
            write_stdout(content)
        else:
            write_file(self._path, content)


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
        write_file(self._folder / f"{stem}{INFIX}.{self._format}", render([result], self._format))

    def finish(self) -> None: ...


def _shortened(stem: str) -> str:
    data = os.fsencode(stem)
    return stem if len(data) <= MAX_STEM_BYTES else data[:MAX_STEM_BYTES].decode("utf-8", "ignore")


def write_file(path: Path, content: str | bytes) -> None:
    """Write the whole file or nothing: under another name first, then renamed. Raises OSError."""
    content = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(content)  # /dev/null or a pipe: to be written into, not replaced
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets only its user read
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # what was written into does not know its name
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
