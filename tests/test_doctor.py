"""What `psamf-edge doctor` says of machines that are not this one, and of this one."""

import json
import os
import shutil
import sys

import pytest
from click.testing import CliRunner
from locked_folder import locked_folder

from psamf_edge.bundle import DEFAULT_BUNDLE
from psamf_edge.cli import main
from psamf_edge.cli.doctor import as_text, doctor
from psamf_edge.doctor import machine, packages
from psamf_edge.doctor.decoder import decoder_finding
from psamf_edge.doctor.finding import STATES, Finding
from psamf_edge.doctor.model import bundle_findings, cache_finding
from psamf_edge.engine_cache import EngineCache

ORIN_CPU = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimdrdm asimddp\n"
OLD_CPU = "model name\t: An old one\nflags\t\t: fpu sse2 avx\n"


def test_this_machine_can_do_its_work():
    done = CliRunner().invoke(doctor, ["--json"])
    document = json.loads(done.stdout)
    assert document["schema"] == "psamf-edge-doctor/1"
    states = {finding["name"]: finding["state"] for finding in document["findings"]}
    assert set(states.values()) <= set(STATES) - {"broken"}
    assert all(states[name] == "ok" for name in ("Python", "numpy", "onnxruntime", "av", "files"))
    # whatever is missing says what would mend it and what it is good for
    assert all(f["mend"] and f["serves"] for f in document["findings"] if f["state"] == "missing")


def test_int8_without_its_instructions(root):
    root("proc/cpuinfo", OLD_CPU)
    found = machine.processor()
    assert found.state == "note"
    assert "An old one" in found.detail
    assert "--precision fp32" in found.mend
    for fast in (ORIN_CPU, OLD_CPU.replace("avx", "avx avx2")):
        root("proc/cpuinfo", fast)
        assert machine.processor().state == "ok"


def test_a_system_that_tells_nothing(root):
    assert machine.processor().state == "ok"
    assert machine.memory().detail == "this system does not tell it"
    assert machine.jetson() == []


def test_little_memory(root):
    root("proc/meminfo", "MemTotal:        1000000 kB\nMemAvailable:     250000 kB\n")
    assert machine.memory().state == "note"
    assert machine.memory().detail == "1.0 GB, 0.3 GB of it available"
    root("proc/meminfo", "MemTotal:        16777216 kB\nMemAvailable:     8388608 kB\n")
    assert machine.memory().detail == "17.2 GB, 8.6 GB of it available"
    assert machine.memory().state == "ok"


def test_a_jetson_and_its_power_modes(root):
    root("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n")
    root("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    root("etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\nx\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n")
    root("var/lib/nvpmodel/status", "pmode:0000\n")
    board, mode = machine.jetson()
    assert board.detail == "NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3"
    assert (mode.state, mode.detail) == ("note", "0 (15W); modes are 0 15W, 2 MAXN_SUPER")
    assert mode.mend.startswith("sudo nvpmodel -m 2 ")
    root("var/lib/nvpmodel/status", "pmode:0002 fmode:quiet\n")
    assert machine.jetson()[1].state == "ok"


class StandInDriver:
    """As much of libcuda as is asked for. `start`: what cuInit gives."""

    def __init__(self, start=0):
        numbers = {75: 8, 76: 7, 18: 1}
        self.cuInit = lambda flags: start
        self.cuDriverGetVersion = lambda out: setattr(out._obj, "value", 12060)
        self.cuDeviceGetCount = lambda out: setattr(out._obj, "value", 1)
        self.cuDeviceGetName = lambda out, size, device: setattr(out, "value", b"Orin")
        self.cuDeviceTotalMem_v2 = lambda out, device: setattr(out._obj, "value", 8_000_000_000)
        self.cuDeviceGetAttribute = lambda out, which, device: setattr(out._obj, "value", numbers[which])


def test_a_gpu_and_its_driver(root):
    root("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.57.08  Sat\n")
    driver, gpu = machine.gpus(lambda name: StandInDriver())
    assert driver.detail == "575.57.08, CUDA up to 12.6"
    assert gpu.detail == "Orin, compute capability 8.7, 8.0 GB, shares the host's memory"


@pytest.mark.parametrize(("start", "state"), [(100, "note"), (999, "missing")])
def test_a_driver_that_has_nothing_to_drive(start, state):
    (found,) = machine.gpus(lambda name: StandInDriver(start))
    assert found.state == state


def test_no_driver():
    def refuse(name):
        raise OSError(name)

    (found,) = machine.gpus(refuse)
    assert found.state == "missing"
    assert "install NVIDIA's driver" in found.mend


def test_the_tensorrt_of_a_jetson_that_a_virtual_environment_hides(monkeypatch, tmp_path):
    folder = tmp_path / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "dist-packages"
    (folder / "nowhere_tensorrt").mkdir(parents=True)
    monkeypatch.setattr(packages, "SYSTEM_PACKAGES", tmp_path)
    found = packages.optional(packages.Optional("nowhere_tensorrt", "tensorrt", "tensorrt", "engines"))
    assert found.state == "missing"
    assert str(folder) in found.detail
    assert found.mend.startswith(f"echo {folder} > ")
    assert found.mend.endswith("jetpack.pth")


def test_on_a_jetson_tensorrt_comes_from_jetpack(root, monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "SYSTEM_PACKAGES", tmp_path)
    monkeypatch.setattr(packages, "_is_there", lambda module: False)
    wanted = packages.OPTIONAL[0]
    assert packages.optional(wanted).mend == "pip install 'psamf-edge[tensorrt]'"
    root("etc/nv_tegra_release", "# R36 (release), REVISION: 4.3\n")
    assert packages.optional(wanted).mend == "sudo apt install python3-libnvinfer"


@pytest.mark.parametrize(
    ("body", "state", "detail"),
    [
        ("x = 1", "ok", "of unknown version"),
        ("raise ImportError('libcuda.so.1: cannot open')", "note", "needs NVIDIA's driver"),
        ("raise ImportError('libfoo.so: cannot open')", "missing", "libfoo.so"),
        ("import os; os.abort()", "missing", "ends the process"),
    ],
)
def test_a_package_that_does_not_load(monkeypatch, tmp_path, body, state, detail):
    (tmp_path / "brittle_package.py").write_text(body + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = packages.optional(packages.Optional("brittle_package", "brittle-package", "", "nothing", True))
    assert found.state == state
    assert detail in found.detail


def test_what_lies_in_the_working_folder_is_not_run(monkeypatch, tmp_path):
    (tmp_path / "tensorrt_rtx.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    packages.try_import("tensorrt_rtx")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("python", "state", "detail"),
    [
        ("exit 3", "note", "no seccomp filter"),
        ("echo no memory >&2; exit 1", "broken", "no memory"),
        (None, "broken", "No such file"),
    ],
)
def test_a_decoder_that_is_not_sealed_or_does_not_start(monkeypatch, tmp_path, python, state, detail):
    if python:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{python}\n")
        (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = decoder_finding()
    assert found.state == state
    assert detail in found.detail
    assert ("SECURITY.md" in found.mend) is (state == "note")
    monkeypatch.setattr("psamf_edge.cli.doctor.examine", lambda bundle: [found])
    assert CliRunner().invoke(doctor, standalone_mode=False).return_value == (3 if state == "broken" else 0)


def test_a_damaged_bundle(monkeypatch, tmp_path):
    monkeypatch.setattr("psamf_edge.doctor.package_findings", list)  # seconds, and another test's matter
    copy = tmp_path / "b.psamf"
    shutil.copytree(DEFAULT_BUNDLE, copy)
    file = next(copy.glob("*.onnx"))
    file.write_bytes(file.read_bytes()[:-1])
    done = CliRunner().invoke(doctor, ["--bundle", str(copy)], standalone_mode=False)
    assert done.return_value == 4
    assert "broken  files" in done.stdout
    assert file.name in done.stdout
    (found,) = bundle_findings(tmp_path / "nothing")
    assert found.state == "broken"


def test_a_bundle_that_is_not_there_is_wrong_use(tmp_path):
    done = CliRunner().invoke(main, ["doctor", "--bundle", str(tmp_path / "typo.psamf")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is not a bundle" in done.stderr


def test_a_home_that_may_not_be_entered(monkeypatch):
    for name in ("PSAMF_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with locked_folder() as locked:
        monkeypatch.setenv("HOME", str(locked))
        found = cache_finding()
    assert found.state == "note"
    assert "it cannot be written" in found.detail


def test_where_engines_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("PSAMF_EDGE_CACHE", str(tmp_path / "not" / "yet"))
    assert cache_finding().state == "ok"
    assert not (tmp_path / "not").exists()
    cache = EngineCache(tmp_path / "kept")
    with cache.lock():
        cache.put("one", bytes(3_000_000), {})
    monkeypatch.setenv("PSAMF_EDGE_CACHE", str(tmp_path / "kept"))
    assert cache_finding().state == "ok"
    assert cache_finding().detail.endswith("3 files, 3.0 MB")
    (tmp_path / "kept" / "engines" / "one").write_bytes(b"damaged")
    found = cache_finding()
    assert found.state == "note"
    assert "3 files, 0.0 MB; 1 will be built again when needed" in found.detail
    assert "one is damaged" in found.detail
    if hasattr(os, "geteuid"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
            assert "belongs to another user" in cache_finding().detail
        (tmp_path / "kept").chmod(0o777)
        assert "can be written by others: `chmod go-w" in cache_finding().detail
    monkeypatch.setattr("os.access", lambda path, mode: False)
    found = cache_finding()
    assert found.state == "note"
    assert "PSAMF_EDGE_CACHE" in found.mend


def test_the_terminal_is_safe_from_what_is_found():
    text = as_text([Finding("machine", "GPU 0", "ok", "evil\x1b[2J name")])
    assert "\x1b" not in text
