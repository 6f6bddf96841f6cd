"""The restrictions of docs/container.md, put on the product by bubblewrap, which needs no container engine and no root.

What `docker run` of that page asks for, and what stands for it here:

    --network none                     a network namespace with nothing in it
    --read-only --tmpfs /tmp           the root read-only, /tmp and /dev/shm empty and in memory
    --cap-drop ALL                     no capability
    --security-opt no-new-privileges   bubblewrap sets it always
    USER reader                        a user id that is not root's
    --pids-limit, --memory             a control group, where this user may make one
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from psamf_edge.bundle import DEFAULT_BUNDLE

ROOT = Path(__file__).parents[1]
SAMPLE = DEFAULT_BUNDLE.parent / "sample.mp4"
DOCKER_SHM = 64 << 20  # bytes of /dev/shm that Docker gives unless told otherwise
PAGE = ROOT / "docs" / "container.md"
MEMORY_GIB, PROCESSES = 2, 64  # as on that page
PROBE = """
import json, os, socket, sys

def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"

status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "network": tried(lambda: socket.create_connection(("192.0.2.1", 80), 2)),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "root": tried(lambda: open("/written", "w")),
    "clips": tried(lambda: open("/tmp/clips/written", "w")),
    "tmp": tried(lambda: open("/tmp/written", "w")),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "uid": os.getuid(),
}))
"""


def contained(clips: Path, *command: str) -> list[str]:
    """The command line that runs `command` under the page's restrictions, with `clips` at /tmp/clips."""
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--uid", "1000", "--gid", "1000", "--cap-drop",
               "ALL", "--clearenv", "--setenv", "HOME", "/nonexistent", "--setenv", "PYTHONPATH", str(ROOT),
               "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
               "--size", str(DOCKER_SHM), "--tmpfs", "/dev/shm"]  # fmt: skip
    for path in {ROOT, Path(sys.prefix), Path(sys.base_prefix)}:  # where they are below /tmp
        options += ["--ro-bind", str(path), str(path)]
    return ["bwrap", *options, "--ro-bind", str(clips), "/tmp/clips", "--chdir", "/tmp", *command]


def run(command: list[str], **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A good clip beside one that is none."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap (bwrap) is not installed")
    folder = tmp_path_factory.mktemp("clips")
    if (refused := run(contained(folder, "true"))).returncode:
        pytest.skip(f"this user may not make namespaces: {refused.stderr.strip()}")
    shutil.copy(SAMPLE, folder / "good.mp4")
    (folder / "bad.mp4").write_bytes(b"no clip")
    return folder


@pytest.fixture
def group():
    """A control group with the page's limits, of version 1 or 2: the folder of each controller."""
    mount, name = Path("/sys/fs/cgroup"), f"psamf-edge-test-{os.getpid()}"
    limits = {"memory": ("memory.limit_in_bytes", MEMORY_GIB << 30), "pids": ("pids.max", PROCESSES)}
    if (mount / "cgroup.controllers").is_file():
        folders, limits["memory"] = dict.fromkeys(limits, mount / name), ("memory.max", MEMORY_GIB << 30)
    else:
        folders = {controller: mount / controller / name for controller in limits}
    try:
        for controller, folder in folders.items():
            folder.mkdir(exist_ok=True)
            (folder / limits[controller][0]).write_text(str(limits[controller][1]))
    except OSError as error:
        remove(folders)
        pytest.skip(f"this user may not make control groups: {error}")
    yield folders
    remove(folders)


def remove(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        with contextlib.suppress(OSError):  # one that was never made, or both are the same
            folder.rmdir()


def scores(stdout: str) -> dict[str, float]:
    return {Path(result["clip"]).name: result["score"] for result in map(json.loads, stdout.splitlines())}


def test_the_page_asks_for_the_same_limits():
    assert f"--memory {MEMORY_GIB}g --pids-limit {PROCESSES} " in PAGE.read_text()


def test_the_volume_of_engines_is_the_users():
    """A new volume has the owner of the folder under it, and the cache takes a folder of its user alone."""
    page = PAGE.read_text()
    (volume,) = re.findall(r"-v [\w-]+:(\S+) -e PSAMF_EDGE_CACHE=\1`", page)
    (user,) = re.findall(r"^    USER (\w+)$", page, re.M)
    assert f"    RUN mkdir --mode 700 {volume} && chown {user} {volume}\n" in page


def test_the_restrictions_are_in_force(clips):
    seen = json.loads(run(contained(clips, sys.executable, "-c", PROBE)).stdout)
    assert seen == {
        "network": "OSError",  # unreachable
        "interfaces": ["lo"],
        "root": "OSError",
        "clips": "OSError",  # both read-only
        "tmp": "done",
        "capabilities": 0,
        "no_new_privileges": "1",
        "uid": 1000,
    }


@pytest.mark.slow
def test_the_scores_are_those_of_outside(clips):
    command = [sys.executable, "-m", "psamf_edge", "infer"]
    inside = run(contained(clips, *command, "/tmp/clips"))
    assert inside.returncode == 1, inside.stderr  # for the bad clip
    assert inside.stderr.count("bad.mp4") == 1
    outside = run([*command, str(clips)], cwd=ROOT)
    assert scores(inside.stdout) == scores(outside.stdout)
    assert set(scores(inside.stdout)) == {"good.mp4"}


@pytest.mark.slow
def test_memory_and_processes_stay_in_their_limits(clips, group):
    def enter():  # before bubblewrap starts
        for folder in set(group.values()):
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    command = contained(clips, sys.executable, "-m", "psamf_edge", "infer", "/tmp/clips")
    done = run(command, preexec_fn=enter)
    assert set(scores(done.stdout)) == {"good.mp4"}, done.stderr
