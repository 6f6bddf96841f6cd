"""What the decoder child gives up: the filter's rules, a sealed process that tries everything, and the child itself."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import media_files as files
import pytest

from psamf_edge.doctor.decoder import decoder_finding
from psamf_edge.doctor.finding import OK
from psamf_edge.errors import InputError, MissingDependencyError
from psamf_edge.media import sandbox
from psamf_edge.media.events import ClipFooter
from psamf_edge.media.limits import Limits
from psamf_edge.media.reader import MediaReader
from tests.attacks.media import sparse_wav

HEADERS = {  # of the kernel, from the package linux-libc-dev
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the filter and /proc are Linux's")
sealable = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.uname().machine not in sandbox.ARCHITECTURES,
    reason="no filter for this machine",
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return files.write_clip(tmp_path_factory.mktemp("media") / "clip.mp4", 1)


# The rules


@pytest.mark.parametrize("machine", sandbox.ARCHITECTURES)
def test_the_numbers_are_the_kernels(machine):
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is not installed")
    found = re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    numbers = {name: int(number) for name, number in found} | {"poll": 7 if machine == "x86_64" else None}
    numbers.setdefault("newfstatat", numbers.get("fstatat"))
    column = sandbox.ARCHITECTURES[machine][0]
    ours = sandbox.CALLS | {"clone": sandbox.CLONE, "prlimit64": sandbox.PRLIMIT}
    assert {name: call[column] for name, call in ours.items()} == {name: numbers[name] for name in ours}


def judge(program: list[tuple[int, int, int, int]], number: int, architecture: int, argument: int = 0) -> int:
    """What the kernel's interpreter would return for a system call."""
    data = {sandbox.NUMBER: number, sandbox.ARCHITECTURE: architecture, sandbox.FIRST_ARGUMENT: argument}
    at = loaded = 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        if code == sandbox.RETURN:
            return value
        if code == sandbox.LOAD:
            loaded = data[value]
            continue
        holds = {
            sandbox.EQUAL: loaded == value,
            sandbox.AT_LEAST: loaded >= value,
            sandbox.ANY_BIT: bool(loaded & value),
        }[code]
        at += yes if holds else no


@pytest.mark.parametrize("machine", sandbox.ARCHITECTURES)
def test_the_filter_lets_pass_what_the_table_says_and_nothing_else(machine):
    column, architecture = sandbox.ARCHITECTURES[machine]
    program = sandbox.filter_program(column, architecture)
    assert max(max(yes, no) for _, yes, no, _ in program) < 256  # a jump is one byte
    allowed = {call[column] for call in sandbox.CALLS.values()} - {None}
    passed = {number for number in range(2000) if judge(program, number, architecture, 1) == sandbox.ALLOW}
    assert passed == allowed
    clone, prlimit = sandbox.CLONE[column], sandbox.PRLIMIT[column]
    assert judge(program, clone, architecture, sandbox.CLONE_THREAD | 0xF00) == sandbox.ALLOW
    assert judge(program, clone, architecture, signal.SIGCHLD) == sandbox.REFUSE  # as fork asks for it
    assert judge(program, prlimit, architecture, 0) == sandbox.ALLOW
    assert judge(program, prlimit, architecture, 1234) == sandbox.REFUSE
    assert all(judge(program, sandbox.X32 + number, architecture) == sandbox.REFUSE for number in allowed)
    assert judge(program, 0, 0x4000_0003) == sandbox.KILL_PROCESS  # i386, where every number means something else


TRY = """
import ctypes, hashlib, json, os, resource, socket, subprocess, sys, threading
from psamf_edge.media import sandbox
held = os.open(sys.executable, os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
attempts = {
    "read a file": lambda: open("/etc/hostname"),
    "write a file": lambda: open("made", "w"),
    "truncate": lambda: os.truncate("kept", 0),
    "delete": lambda: os.unlink("kept"),
    "rename": lambda: os.rename("kept", "moved"),
    "make a folder": lambda: os.mkdir("made"),
    "link": lambda: os.symlink("kept", "made"),
    "change rights": lambda: os.chmod("kept", 0),
    "list a folder": lambda: os.listdir("."),
    "TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "UDP": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    "Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "socket pair": socket.socketpair,
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "subprocess": lambda: subprocess.run(["/bin/true"]),
    "signal the parent": lambda: os.kill(os.getppid(), 0),
    "limit the parent": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (9, 9)),
    "memory without a name": lambda: os.memfd_create("x"),
    "io_uring": lambda: call(425, 8, 0),
    "ptrace": lambda: call({"x86_64": 101, "aarch64": 117}[os.uname().machine], 16, os.getppid(), 0, 0),
    "namespaces": lambda: call({"x86_64": 272, "aarch64": 97}[os.uname().machine], 0x10000000),
}
hashlib.sha256()
assert sandbox.seal()
done = []
for name, attempt in attempts.items():
    try:
        attempt()
        done.append(name)
    except OSError:
        pass
thread = threading.Thread(target=hashlib.sha256, args=(os.pread(held, 1 << 20, 0),))
thread.start()
thread.join()
print(json.dumps(done))
"""


@sealable
def test_a_sealed_process_computes_and_can_do_nothing_else(tmp_path):
    (tmp_path / "kept").write_text("kept")
    done = subprocess.run([sys.executable, "-c", TRY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("kept", "kept")]


# The child


def status_of(reader: MediaReader, name: str) -> str:
    text = Path(f"/proc/{reader._child._process.pid}/{name}").read_text()
    return re.sub(r"[ \t]+", " ", text)


@linux
def test_the_child_is_sealed_and_limited(clip):
    with MediaReader(Limits.of({"memory": 1 << 30})) as reader:
        list(reader.read(clip))
        status, limits = status_of(reader, "status"), status_of(reader, "limits")
    if os.uname().machine in sandbox.ARCHITECTURES:
        assert "Seccomp: 2\n" in status
        assert "NoNewPrivs: 1\n" in status
    assert "Max file size 0 0 bytes" in limits
    assert "Max core file size 0 0 bytes" in limits
    assert f"Max open files {sandbox.OPEN_FILES} {sandbox.OPEN_FILES} files" in limits
    assert f"Max data size {1 << 30} {1 << 30} bytes" in limits
    spent = int(re.search(r"Max cpu time (\d+) ", limits)[1])
    assert 240 <= spent <= 260  # four threads for a minute, from when the clip began


@linux
def test_a_decoder_that_spins_is_ended_by_the_system(tmp_path, clip):
    long = sparse_wav(tmp_path / "long.wav", 4 * 3600)
    with MediaReader() as reader:
        list(reader.read(clip))
        resource.prlimit(reader._child._process.pid, resource.RLIMIT_CPU, (1, 60))  # sooner than by itself
        with pytest.raises(InputError, match="too much processor time"):
            list(reader.read(long))
        assert isinstance(list(reader.read(clip))[-1], ClipFooter)


def test_a_child_that_reads_nothing_holds_nobody_up(clip):
    with MediaReader() as reader:
        list(reader.read(clip))
        os.kill(reader._child._process.pid, signal.SIGSTOP)
        reader._child.patience_s = 0.2
        with pytest.raises(TimeoutError):
            reader._child.send(bytes(1 << 26))  # more than any socket holds


def test_a_child_that_cannot_start_says_so(clip, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MissingDependencyError, match="cannot be started"):
        MediaReader()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with MediaReader() as reader, pytest.raises(MissingDependencyError, match=r"cannot start here \(exit code 1\)"):
        list(reader.read(clip))


@sealable
def test_doctor_tells_whether_the_seal_holds():
    found = decoder_finding()  # where the filter is refused: in test_doctor.py
    assert (found.state, found.mend) == (OK, None)


CRASH = """
import ctypes, os, sys
if "psamf_edge.media.worker" in sys.orig_argv:
    import psamf_edge.media.decode as decode
    decoded = decode.Clip.decode
    def crash(self):
        if self.video is not None and self.video.codec_context.width == 48:
            ctypes.string_at(0)
        decoded(self)
    decode.Clip.decode = crash
"""


@linux
def test_a_crash_of_the_decoder_costs_its_clip_and_no_other(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    clips = [tmp_path / name for name in ("one.mp4", "crashes.mp4", "three.mp4")]
    for path in clips:
        files.write_clip(path, 1, size=(48, 48) if "crashes" in path.name else (64, 48))
        path.with_suffix(".txt").write_text("It was good.")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "psamf_edge", "infer", "-q", *map(str, clips)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 1
    assert [Path(json.loads(line)["clip"]).name for line in done.stdout.splitlines()] == ["one.mp4", "three.mp4"]
    (line,) = done.stderr.splitlines()
    assert "crashes.mp4" in line
    assert "the decoder died over it (SIGSEGV)" in line


def test_a_name_given_to_something_else_after_the_look(tmp_path, clip, monkeypatch):
    """The second look is at what was opened; and opening a pipe waits for nobody."""
    os.mkfifo(tmp_path / "talk.mp4")
    honest = os.stat(clip)
    with MediaReader() as reader:
        monkeypatch.setattr(os, "stat", lambda *arguments, **options: honest)
        with pytest.raises(InputError, match="is a pipe"):
            next(reader.read(tmp_path / "talk.mp4"))
