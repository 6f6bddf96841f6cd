"""The finished stages of a compile, kept beside its output until it is done, so that an interrupted one goes on.

`OUT.psamf` has its work in `.OUT.psamf.work`, a folder with a folder for each finished stage: files, and `stage.json`
with their hashes and the stage's key. The key is everything that the stage depends on; a stage with another key, or
with a file that is not as it was, is done again. A stage appears whole or not at all, by a rename, whenever the process
is killed. Everything temporary is made in here too, so that a kill leaves nothing elsewhere, and the next run sweeps it
away; but a bundle that was being replaced goes back to its place first, if nothing has come there (see export.pack).
Who may write beside the output may also write here: it guards against accidents, and not against others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psamf_edge.bundle import is_plain_name
from psamf_edge.compile.files import write_synced
from psamf_edge.compile.lock import LOCK, take_lock
from psamf_edge.errors import UsageError

Files = dict[str, bytes]
Log = Callable[[str], None]
RECORD, PACKED, UNFINISHED = "stage.json", "packed.json", ".new"
SCRATCH, REPLACED = ".psamf-", ".old"  # how the name of a bundle begins that is being replaced, and how it ends
LEAST_KNOWN = 0.1  # of the expected work: from less than that, what is left would be guessed


class Work:
    """The work folder of one output; only one process at a time has it.

    Args:
        output: what is to be made.
        log: takes a line for each stage.
        expected: title of a stage to the seconds that it took the default weights on two cores. Only their proportions
            count: what is left is reckoned from how long the stages so far took this time.

    Raises:
        UsageError: another process is making the same output, or something else has the folder's name.
    """

    def __init__(self, output: Path, log: Log = lambda line: None, expected: Mapping[str, float] | None = None) -> None:
        self.folder = folder_of(output)
        self._log, self._to_do = log, dict(expected or {})
        self._began, self._total = 0, len(self._to_do)
        self._spent = self._weighed = 0.0  # seconds that finished stages took, and that were expected of these
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise UsageError(f"{self.folder} is in the way: finished stages would be kept there, move it elsewhere.")
        self._lock = take_lock(self.folder, output)
        for old in self.folder.glob(f"{SCRATCH}*{REPLACED}"):
            if not os.path.lexists(output):
                os.rename(old, output)
        for file in self.folder.iterdir():
            is_stage = file.suffix != UNFINISHED and (file / RECORD).is_file()
            if not is_stage and file.name not in (LOCK, PACKED):
                _remove(file)
        self._usual_temporary, tempfile.tempdir = tempfile.tempdir, str(self.folder.absolute())  # of libraries as well

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Further stages, as `expected`."""
        self._to_do |= seconds
        self._total += len(seconds)

    def once(self, title: str, name: str, key: Mapping[str, Any], make: Callable[[], Files]) -> Files:
        """The files of a stage: those of an earlier run with the same key, or what `make` gives now.

        Args:
            title: what the log says of it.
            name: a plain name, of the folder.
            key: JSON; all that the files depend on.

        Raises:
            UsageError: the name is not plain, as a segment's of 75 letters is: it is one of a bundle that is compiled.
        """
        if not is_plain_name(name):
            raise UsageError(f"No finished stage can be kept under the name {name[:80]!r}: a step's name is too long.")
        digest = digest_of(key)
        with self.stage(title) as note:
            found = self._read(name, digest)
            if found is not None:
                note("finished before")
                return found
            files = make()
            self._write(name, digest, files)
            return files

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[str], None]]:
        """Say that a stage begins, what is left, and how long it took; gives a function that adds to the last line."""
        self._began += 1
        notes: list[str] = []
        self._total += title not in self._to_do  # nobody foresaw it: a search, when a bound does not hold
        self._log(f"[{self._began}/{self._total}] {title} ...{self._left(title)}")
        start = time.perf_counter()
        yield notes.append
        took = time.perf_counter() - start
        weight = self._to_do.pop(title, 0.0)
        if not notes:
            self._spent, self._weighed = self._spent + took, self._weighed + weight
        self._log(f"    {took:.1f} s" + "".join(f", {note}" for note in notes))

    def note_packed(self, call: str, output: str) -> None:
        """Remember, until the folder is gone, that the output is about to be put in its place.

        Args:
            call: digest of all that the output depends on.
            output: digest of the output.
        """
        fresh = self.folder / f"{PACKED}{UNFINISHED}"
        write_synced(fresh, json.dumps({"call": call, "output": output}).encode())
        os.replace(fresh, self.folder / PACKED)

    @property
    def packed(self) -> dict[str, str]:
        """What `note_packed` was told, by a run that was killed before `close`; empty if there was none."""
        return packed(self.folder)

    def close(self, done: bool) -> None:
        """Let another process have it; with `done`, remove it, and the note of what was packed last."""
        tempfile.tempdir = self._usual_temporary
        if done:
            for file in sorted(self.folder.iterdir(), key=lambda file: (file.name == PACKED, file.name == LOCK)):
                _remove(file)
            with contextlib.suppress(OSError):
                self.folder.rmdir()
        self._lock.close()

    def _left(self, title: str) -> str:
        known = self._weighed >= LEAST_KNOWN * (self._weighed + sum(self._to_do.values()))
        if not self._weighed or not known or title not in self._to_do:
            return ""
        seconds = sum(self._to_do.values()) * self._spent / self._weighed
        return f"   about {seconds / 60:.0f} min left" if seconds >= 120 else f"   about {max(1, seconds):.0f} s left"

    def _read(self, name: str, digest: str) -> Files | None:
        folder = self.folder / name
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            files = {file: (folder / file).read_bytes() for file in record["files"]}
            whole = all(hashlib.sha256(data).hexdigest() == record["files"][file] for file, data in files.items())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return files if whole and record.get("key") == digest else None

    def _write(self, name: str, digest: str, files: Files) -> None:
        fresh = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"{name}-", suffix=UNFINISHED))
        hashes = {}
        for file, data in files.items():
            write_synced(fresh / file, data)
            hashes[file] = hashlib.sha256(data).hexdigest()
        write_synced(fresh / RECORD, json.dumps({"key": digest, "files": hashes}).encode())
        shutil.rmtree(self.folder / name, ignore_errors=True)  # of another key
        os.rename(fresh, self.folder / name)


def folder_of(output: Path) -> Path:
    """Where the work of an output is kept."""
    return output.parent / f".{output.name}.work"


def packed(folder: Path) -> dict[str, str]:
    """`Work.packed` of a folder that nobody has opened."""
    try:
        note = json.loads((folder / PACKED).read_text(encoding="utf-8"))
        return {"call": str(note["call"]), "output": str(note["output"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def digest_of(key: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def source_digest(*folders: Path) -> str:
    """SHA-256 of all Python files in these folders: a stage that other code made is done again."""
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
