"""The engine cache: what it keeps, what it refuses, and what kills, full disks and strangers do to it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from psamf_edge import engine_cache
from psamf_edge.engine_cache import EngineCache, default_root, key_of
from psamf_edge.errors import IntegrityError

MADE_FOR = {"bundle": "b", "segment": "text"}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def put(cache: EngineCache, name: str, content: bytes = b"engine") -> None:
    with cache.lock():
        cache.put(name, content, MADE_FOR)


def files(cache: EngineCache) -> set[str]:
    return {path.name for path in (cache.root / "engines").iterdir()}


def test_what_is_put_comes_back_in_another_process_too(cache: EngineCache) -> None:
    assert cache.get("a") is None
    put(cache, "a", b"\0\1\2")
    other = EngineCache(cache.root)
    assert (cache.get("a"), other.get("a"), cache.problem) == (b"\0\1\2", b"\0\1\2", None)
    assert other.made_for() == [MADE_FOR]
    put(other, "a", b"new")
    assert cache.get("a") == b"new"
    assert files(cache) == {"a", "index.json", "lock"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_nobody_else_may_read_it(cache: EngineCache) -> None:
    put(cache, "a")
    engines = cache.root / "engines"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (cache.root, engines)} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in engines.iterdir()} == {0o600}


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PSAMF_EDGE_CACHE", str(tmp_path / "named"))
    assert default_root() == tmp_path / "named"
    monkeypatch.delenv("PSAMF_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "xdg" / "psamf-edge"
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for value in ("relative/path", ""):  # neither counts, says the specification
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_root() == tmp_path / "home" / ".cache" / "psamf-edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_root() == tmp_path / "home" / ".cache" / "psamf-edge"


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PSAMF_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    cache = EngineCache()
    put(cache, "a")
    assert cache.get("a") is None
    assert "Could not determine home directory" in cache.problem


@pytest.mark.parametrize("change", ["flip", "truncate", "append", "empty", "replace"])
def test_damage_is_refused(cache: EngineCache, change: str) -> None:
    put(cache, "a", b"engine of the text")
    path = cache.root / "engines" / "a"
    content = path.read_bytes()
    path.write_bytes(
        {
            "flip": b"\x00" + content[1:],
            "truncate": content[:5],
            "append": content + b"x",
            "empty": b"",
            "replace": b"y",
        }[change]
    )
    with pytest.raises(IntegrityError, match="is damaged"):
        cache.get("a")
    put(cache, "a", b"again")
    assert cache.get("a") == b"again"


def test_a_file_that_was_dropped_in_is_refused_and_swept_away(cache: EngineCache) -> None:
    put(cache, "a")
    (cache.root / "engines" / "stranger").write_bytes(b"native code")
    with pytest.raises(IntegrityError, match="not one that this cache has written"):
        cache.get("stranger")
    put(cache, "b")
    assert files(cache) == {"a", "b", "index.json", "lock"}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no modes")
def test_what_others_own_or_may_write_is_refused(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache, "a")
    path = cache.root / "engines" / "a"
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(IntegrityError, match="can be written by others"):
            cache.get("a")
    path.chmod(0o600)
    target = cache.root / "elsewhere"
    path.rename(target)
    path.symlink_to(target)
    with pytest.raises(IntegrityError, match="cannot be read"):
        cache.get("a")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(IntegrityError, match="not a plain file"):  # and does not hang
        cache.get("a")
    path.unlink()
    target.rename(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(IntegrityError, match="belongs to another user"):
        cache.get("a")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no modes")
@pytest.mark.parametrize("which", [".", "engines"])
def test_a_directory_that_others_may_write_is_not_used(cache: EngineCache, which: str) -> None:
    put(cache, "a")
    (cache.root / which).chmod(0o777)
    other = EngineCache(cache.root)
    assert other.get("a") is None
    assert "can be written by others: `chmod go-w" in other.problem
    assert "PSAMF_EDGE_CACHE" in other.problem


def test_a_directory_that_is_a_link_or_a_file_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "linked").mkdir(mode=0o700)
    (tmp_path / "linked" / "engines").symlink_to(tmp_path / "elsewhere")
    assert "is not a directory" in EngineCache(tmp_path / "linked").problem
    (tmp_path / "file").write_text("x")
    assert EngineCache(tmp_path / "file").problem is not None


@pytest.mark.parametrize(
    "index",
    [b"", b"{", b"[]", b"\xff", b'{"a": 3}', b'{"a": {}}', b'{"a": {"sha256": "x", "made_for": 1}}', b"[" * 10**5],
    ids=range(8),
)
def test_a_broken_index_vouches_for_nothing(cache: EngineCache, index: bytes) -> None:
    put(cache, "a")
    (cache.root / "engines" / "index.json").write_bytes(index)
    with pytest.raises(IntegrityError, match="not one that this cache has written"):
        cache.get("a")
    assert cache.made_for() == []
    put(cache, "a", b"again")
    assert cache.get("a") == b"again"


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "cache", limit=100)
    for age, name in enumerate("abc"):
        put(cache, name, bytes(30))
        os.utime(cache.root / "engines" / name, (1000 + age, 1000 + age))
    assert cache.get("a") is not None  # used now, so that b is the oldest
    put(cache, "d", bytes(30))
    assert files(cache) - {"index.json", "lock"} == {"a", "c", "d"}
    assert set(json.loads((cache.root / "engines" / "index.json").read_text())) == {"a", "c", "d"}
    put(cache, "e", bytes(100))
    assert files(cache) - {"index.json", "lock"} == {"e"}
    put(cache, "f", bytes(101))  # would not fit alone
    assert files(cache) - {"index.json", "lock"} == {"e"}
    assert cache.problem is None


def test_a_clock_that_went_back_changes_no_order(tmp_path: Path, monkeypatch) -> None:
    """As on a device without a battery, which begins in 1970 until it has found a network."""
    cache = EngineCache(tmp_path / "cache", limit=100)
    for name in "abc":
        put(cache, name, bytes(30))
    monkeypatch.setattr(engine_cache.time, "time_ns", lambda: 0)
    assert cache.get("a") is not None
    put(cache, "d", bytes(30))
    assert files(cache) - {"index.json", "lock"} == {"a", "c", "d"}
    put(cache, "e", bytes(30))
    assert files(cache) - {"index.json", "lock"} == {"a", "d", "e"}


FULL = """
import sys
from pathlib import Path
from psamf_edge.engine_cache import EngineCache

root = Path(sys.argv[1])
exec(sys.argv[2])
cache = EngineCache(root)

def put(name, size):
    with cache.lock():
        cache.put(name, bytes(size), {})

put("a", 3000)
assert cache.problem is None, cache.problem
put("b", 3_000_000)
print(cache.problem)
again = EngineCache(root)
assert (len(cache.get("a")), cache.get("b"), len(again.get("a"))) == (3000, None, 3000)
assert {path.name for path in (root / "engines").iterdir()} == {"a", "index.json", "lock"}
cache = again
put("c", 3000)  # which there is room for
assert (cache.problem, len(cache.get("c"))) == (None, 3000)
"""
ON_A_SMALL_DISK = """
import subprocess
root.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", root], check=True)
"""
UNDER_A_LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""


def full(root: Path, how: str, *before: str) -> str:
    done = subprocess.run([*before, sys.executable, "-c", FULL, root, how], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_file_that_the_system_does_not_let_grow(tmp_path: Path) -> None:
    assert "cannot be written (File too large)" in full(tmp_path / "cache", UNDER_A_LIMIT)


@pytest.fixture
def name_space() -> list[str]:
    """A command before a command: it may mount disks that nobody else sees."""
    command = ["unshare", "-rm"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody have a name space of his own")
    return command


def test_a_disk_that_is_full(tmp_path: Path, name_space: list[str]) -> None:
    said = full(tmp_path / "cache", ON_A_SMALL_DISK, *name_space)
    assert "cannot be written (No space left on device), so that engines are built at every start: set PSAMF" in said


READ_ONLY = (
    ON_A_SMALL_DISK
    + """
cache = EngineCache(root)
with cache.lock():
    cache.put("a", b"kept", {})
subprocess.run(["mount", "-o", "remount,ro", root], check=True)
cache = EngineCache(root)
with cache.lock() as held:
    cache.put("b", b"lost", {})
print(held, cache.get("a"), cache.get("b"), cache.problem)
sys.exit()
"""
)


def test_a_disk_that_is_read_only(tmp_path: Path, name_space: list[str]) -> None:
    said = full(tmp_path / "cache", READ_ONLY, *name_space)
    assert said.startswith("False b'kept' None The engine cache ")
    assert "cannot be written (Read-only file system)" in said


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_full_or_read_only_cache_is_no_error(cache: EngineCache, monkeypatch, call: str, code: int) -> None:
    put(cache, "a", b"kept")
    real = os.open

    def fail(*args, **options):
        if call == "open" and not args[1] & os.O_CREAT:
            return real(*args, **options)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with cache.lock():
            cache.put("b", b"lost", MADE_FOR)
            cache.put("c", b"lost", MADE_FOR)
    assert os.strerror(code) in cache.problem
    assert cache.get("b") is None
    assert cache.get("a") == b"kept"  # what is there is still of use
    assert not [name for name in files(cache) if name.startswith(".part-")]
    assert EngineCache(cache.root).get("a") == b"kept"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_the_right_to_write(tmp_path: Path) -> None:
    (tmp_path / "cache" / "engines").mkdir(parents=True, mode=0o700)
    (tmp_path / "cache" / "engines").chmod(0o500)
    cache = EngineCache(tmp_path / "cache")
    put(cache, "a")
    assert "Permission denied" in cache.problem


def test_the_lock_is_for_one(cache: EngineCache) -> None:
    other = EngineCache(cache.root)
    with cache.lock() as held:
        assert held
        with other.lock(wait=False) as also:
            assert not also
    with other.lock(wait=False) as held:
        assert held
    assert (cache.problem, other.problem) == (None, None)


CHILD = """
import os, sys, time
from pathlib import Path
from psamf_edge.engine_cache import EngineCache

cache, moment = EngineCache(Path(sys.argv[1])), sys.argv[2]

def stop(*args, **options):
    print("here", flush=True)
    time.sleep(600)

if moment == "between":
    real, calls = os.replace, []
    def replace(*args):
        if calls:
            stop()
        calls.append(real(*args))
    os.replace = replace
else:
    setattr(os, moment, stop)
with cache.lock():
    cache.put("a", b"new" * 100000, {})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["fsync", "replace", "between"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_kill_while_writing_leaves_nothing_half_written(cache: EngineCache, moment: str, before) -> None:
    """fsync: the bytes may be there in part; replace: they are, under another name; between: the index is not."""
    if before is not None:
        put(cache, "a", before)
    put(cache, "b")
    child = subprocess.Popen([sys.executable, "-c", CHILD, cache.root, moment], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"here\n"
    with cache.lock(wait=False) as held:
        assert not held
    child.send_signal(signal.SIGKILL)
    child.communicate()
    if moment == "between":  # whole, but nothing vouches for it
        with pytest.raises(IntegrityError):
            cache.get("a")
    else:
        assert cache.get("a") == before
    assert cache.get("b") == b"engine"
    with cache.lock(wait=False) as held:
        assert held  # the lock died with its owner
    put(cache, "a", b"again")
    assert cache.get("a") == b"again"
    assert files(cache) == {"a", "b", "index.json", "lock"}


def test_the_key_is_of_every_value() -> None:
    made_for = {"bundle": "b", "version": "10.3", "profile": {"tokens": [1, 50, 128]}, "options": None}
    assert key_of(made_for) == key_of(dict(reversed(made_for.items())))
    changed = [{**made_for, name: "other"} for name in made_for]
    assert len({key_of(each) for each in (made_for, *changed)}) == 5
    assert len(key_of(made_for)) == 64


@pytest.mark.parametrize("free", [0, 3])
def test_where_the_system_cannot_wait_for_a_lock(cache: EngineCache, monkeypatch, free: int) -> None:
    """Windows: msvcrt, which is asked again until the lock is free."""
    from types import SimpleNamespace

    tries = []

    def locking(descriptor: int, mode: int, count: int) -> None:
        tries.append((mode, count))
        if len(tries) <= free:
            raise OSError(errno.EACCES, "taken")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(engine_cache, "POLL", 0)
    with cache.lock() as held:
        assert held
    assert tries == [(2, 1)] * (free + 1)
    tries.clear()
    with cache.lock(wait=False) as held:
        assert held == (free == 0)
