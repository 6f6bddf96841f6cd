"""Where results go: stdout, one file, or a folder with a file for each clip."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

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
MAX_LINKS = 40  # one to the next, as Linux follows them
MAX_STEM_BYTES = 200  # of a file's name: file systems take 255, and a number, INFIX and the suffix follow


class Sink(Protocol):
    """Takes results one by one."""

    def add(self, result: Result) -> None: ...

    def finish(self) -> int:
        """Write what is still held. Returns how many results that were."""


def open_sink(output: str | None, format: str | None, clips: Sequence[Path]) -> Sink:
    """Choose where results go, before any work is done.

    Args:
        output: a file; a folder, which is there or ends in a slash; or None for stdout.
        format: of FORMATS; None: the one that the suffix of the file belongs to, else json.
        clips: what will be scored.

    Raises:
        UsageError: the output cannot hold what is asked for, or would replace an input.
    """
    is_folder = output is not None and (not os.path.basename(output) or os.path.isdir(output))
    suffix = "" if output is None or is_folder else Path(output).suffix.lower()
    format = format or BY_SUFFIX.get(suffix, STREAMED)
    several = len(clips) > 1 and not FORMATS[format].multi_clip
    if output is None:
        check_stdout()
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
    target = os.path.realpath(path)  # which does not raise over links that lead in a circle, as Path.resolve does
    for clip in clips:
        if target == os.path.realpath(clip):
            raise UsageError(f"{path} is one of the clips; name another file to write to.")
        if target in map(os.path.realpath, sidecars(clip)):
            raise UsageError(
                f"{path} is where the transcript of {clip} is looked for; write to "
                f"{path.with_suffix(INFIX + path.suffix)} instead."
            )
    if not os.path.isdir(os.path.dirname(target)):
        raise UsageError(f"There is no folder {os.path.dirname(target)} to write {path.name} in; make it first.")
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
        _replace(self._folder / f"{stem}{INFIX}.{self._format}", _encoded(render([result], self._format)))

    def finish(self) -> int:
        return 0


def _shortened(stem: str) -> str:
    data = os.fsencode(stem)
    return stem if len(data) <= MAX_STEM_BYTES else data[:MAX_STEM_BYTES].decode("utf-8", "ignore")


def write_file(path: Path, content: str | bytes) -> None:
    """Write the whole file or nothing; where the path is a link, the file that it leads to. Raises OSError.

    A device, a pipe and a file that is open already, as /dev/stdout is, are written into.
    """
    if (os.path.exists(path) and not os.path.isfile(path)) or _is_open_file(path):
        with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as file:
            file.write(_encoded(content))
        return
    if os.path.islink(path):
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(path, os.O_WRONLY))  # the system refuses some links: a stranger's in /tmp
        path = Path(os.path.realpath(path))
    _replace(path, _encoded(content))


def _is_open_file(path: Path) -> bool:
    """Whether the path stands for the number of an open file: a link in /proc, or a link to one."""
    for _ in range(MAX_LINKS):
        folder = os.path.realpath(path.parent)
        if f"{folder}/".startswith("/proc/"):
            return True
        if not os.path.islink(path):
            break
        path = Path(folder, os.readlink(path))
    return False


def _encoded(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _replace(path: Path, content: bytes) -> None:
    """Written under another name first, then renamed. Raises OSError."""
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
