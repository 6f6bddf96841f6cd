"""What the product promises never to do at run time: unpickle, start a shell, use the network.

Each is taken away from every process of a real run, the decoder's included, by a sitecustomize module.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from psamf_edge.bundle import DEFAULT_BUNDLE

SAMPLE = DEFAULT_BUNDLE.parent / "sample.mp4"

POISON = '''
import os, sys

def forbid(owner, name):
    def forbidden(*args, **kwargs):
        with open(os.environ["POISON_LOG"], "a") as log:
            log.write(f"{os.getpid()} {owner.__name__}.{name}\\n")
        raise AssertionError(f"{owner.__name__}.{name} was used")
    setattr(owner, name, forbidden)

import pickle, _pickle, marshal, socket, subprocess
for owner in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler"):
        forbid(owner, name)
for name in ("system", "popen"):
    forbid(os, name)
for name in ("getaddrinfo", "create_connection", "gethostbyname"):
    forbid(socket, name)

class NoSocket(socket.socket):
    """Pipes between our own processes are no sockets; a network socket is refused where it is made."""
    def __init__(self, family=-1, *args, **kwargs):
        if family in (socket.AF_INET, socket.AF_INET6, -1) and kwargs.get("fileno") is None and len(args) < 3:
            with open(os.environ["POISON_LOG"], "a") as log:
                log.write(f"{os.getpid()} socket\\n")
            raise AssertionError("a network socket was made")
        super().__init__(family, *args, **kwargs)
socket.socket = NoSocket

_start = subprocess.Popen.__init__
def start(self, args, *rest, shell=False, **options):
    if shell or (isinstance(args, (list, tuple)) and os.path.basename(str(args[0])) in ("sh", "bash", "cmd.exe")):
        with open(os.environ["POISON_LOG"], "a") as log:
            log.write(f"{os.getpid()} shell\\n")
        raise AssertionError("a shell was started")
    _start(self, args, *rest, shell=shell, **options)
subprocess.Popen.__init__ = start

with open(os.environ["POISON_PIDS"], "a") as pids:
    pids.write(f"{os.getpid()} {' '.join(sys.orig_argv)}\\n")
'''


@pytest.fixture
def poisoned(tmp_path):
    """Runs Python with the poison in it: gives the finished process, and what was forbidden to whom."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(POISON)
    log, pids = tmp_path / "used.txt", tmp_path / "pids.txt"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path / "site"), os.environ.get("PYTHONPATH")))),
        "POISON_LOG": str(log),
        "POISON_PIDS": str(pids),
    }

    def run(*arguments):
        done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
        used = log.read_text().splitlines() if log.exists() else []
        started = pids.read_text().splitlines()
        return done, used, started

    return run


@pytest.mark.parametrize(
    "deed",
    [
        "import pickle; pickle.loads(pickle.dumps(1))",
        "import io, pickle; pickle.load(io.BytesIO(pickle.dumps(1)))",
        "import numpy as n, io; f = io.BytesIO(); n.save(f, n.array([None])); f.seek(0); n.load(f, allow_pickle=True)",
        "import os; os.system('true')",
        "import subprocess; subprocess.run('true', shell=True)",
        "import subprocess; subprocess.run(['sh', '-c', 'true'])",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
        "import socket; socket.socket(socket.AF_INET).connect(('127.0.0.1', 9))",
    ],
)
def test_the_poison_works(poisoned, deed):
    done, used, _ = poisoned("-c", deed)
    assert done.returncode != 0
    assert used, done.stderr


@pytest.mark.parametrize("output", ["json", "html"])
def test_a_clip_is_scored_without_any_of_them(poisoned, output, tmp_path):
    done, used, started = poisoned("-m", "psamf_edge", "infer", str(SAMPLE), "--format", output)
    assert done.returncode == 0, done.stderr
    assert used == []
    assert any("psamf_edge.media.worker" in line for line in started)  # the decoder's process was poisoned as well
    if output == "json":
        assert json.loads(done.stdout)["schema"] == "psamf-edge/1"


def test_evaluation_and_doctor_without_any_of_them(poisoned, tmp_path):
    (tmp_path / "rows.csv").write_text(f"id,clip,text,label\na,,It was a joy.,2\nb,{SAMPLE},,1\n")
    done, used, _ = poisoned("-m", "psamf_edge", "evaluate", str(tmp_path / "rows.csv"))
    assert (done.returncode, used) == (0, []), done.stderr
    done, used, _ = poisoned("-m", "psamf_edge", "doctor")
    assert (done.returncode, used) == (0, []), done.stderr


@pytest.fixture
def empty_home(tmp_path):
    """A home, a folder for temporary files and a working directory in one, with nothing in it; and what leads there."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    return home, {**environment, "HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home / "cache")}


def test_a_run_writes_nothing_but_its_answer(empty_home):
    """ONNX Runtime's telemetry, where a wheel has it, would leave an identifier and a database in the home."""
    home, environment = empty_home
    command = [sys.executable, "-m", "psamf_edge", "infer", "-q", str(SAMPLE)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which also sees what native code does")
def test_no_native_code_opens_a_network_socket(empty_home, tmp_path):
    home, environment = empty_home
    trace = ["strace", "-f", "-e", "trace=socket,connect", "-o", str(tmp_path / "trace")]
    if subprocess.run([*trace, "true"], capture_output=True).returncode:
        pytest.skip("processes may not be traced here")
    command = [*trace, sys.executable, "-m", "psamf_edge", "infer", "-q", "--text", "It was good."]
    assert subprocess.run(command, env=environment, cwd=home, capture_output=True).returncode == 0
    assert "AF_INET" not in (tmp_path / "trace").read_text()
