"""What is installed: the wheel that a user builds, in an environment that holds what it requires and nothing else."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_WHEEL_MB = 80  # the bundle and the weights that it was compiled from are nearly all of it
OURS = ("psamf_edge", "compile", "kernels", "benchmarks", "tests")


def python_floor() -> tuple[int, int]:
    """The oldest Python that pyproject.toml claims."""
    floor = re.search(r'^requires-python = ">=(\d+)\.(\d+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return int(floor[1]), int(floor[2])


def test_every_file_parses_with_the_oldest_python_claimed():
    for path in (path for folder in OURS for path in (ROOT / folder).rglob("*.py")):
        ast.parse(path.read_bytes(), str(path), feature_version=python_floor())


def test_the_pythons_named_begin_with_the_floor():
    named = re.findall(r'"Programming Language :: Python :: (\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    versions = [(int(major), int(minor)) for major, minor in named]
    assert versions == [(3, minor) for minor in range(python_floor()[1], versions[-1][1] + 1)]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the tree without what earlier builds left in it: setuptools packs whatever it finds in build/."""
    left_out = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "runs", "demo-output", "found"
    )
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "psamf-edge", ignore=left_out))


def build(source: Path, what: str, folder: Path) -> Path:
    """`what` is wheel or sdist."""
    pytest.importorskip("setuptools", minversion="77.0.3", reason="setuptools, as pyproject.toml asks for, is not here")
    code = f"from setuptools import build_meta; print(build_meta.build_{what}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


def required(name: str, found: set[str] | None = None) -> set[str]:
    """Names of the distributions that one needs here, itself among them, without extras."""
    packaging = pytest.importorskip("packaging.requirements", reason="packaging is not installed")
    found = set() if found is None else found
    if name not in found:
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = packaging.Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                required(requirement.name, found)
    return found


def site_packages(environment: Path) -> Path:
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory) -> Path:
    """An environment with the four packages that run time needs, and with theirs: links, so that nothing is fetched."""
    environment = tmp_path_factory.mktemp("bare")
    venv.create(environment, symlinks=True)
    for name in required("psamf-edge") - {"psamf-edge"}:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (site_packages(environment) / top).symlink_to(distribution.locate_file(top))
    return environment


def pip(environment: Path, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def run(environment: Path, *command: str | Path, code: int = 0) -> str:
    """What a command of the environment prints. It has no network proxy, no PYTHONPATH, and a home without anything."""
    home = environment / "home"
    home.mkdir(exist_ok=True)
    program = [environment / "bin" / command[0], *command[1:]]
    done = subprocess.run(
        list(map(str, program)), cwd=home, env={"HOME": str(home), "PATH": os.defpath, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_what_it_should_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [message_from_bytes(archive.read(name)) for name in names if name.endswith(".dist-info/METADATA")]
        [points] = [archive.read(name).decode() for name in names if name.endswith(".dist-info/entry_points.txt")]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"psamf_edge"}
    assert not [name for name in names if re.search(r"(^|/)(tests?|benchmarks|__pycache__)/|\.npz$|\.pyc$", name)]
    sources = {path.relative_to(ROOT / "psamf_edge") for path in (ROOT / "psamf_edge").rglob("*.py")}
    sources |= {path.relative_to(ROOT) for folder in ("compile", "kernels") for path in (ROOT / folder).rglob("*.py")}
    packed = {Path(name).relative_to("psamf_edge") for name in names if name.endswith(".py")}
    assert packed == sources
    for needed in ("LICENSE", "NOTICE", "MODEL_CARD.md", "NOTICE-mediapipe.txt", "manifest.json", "sample.mp4"):
        assert [name for name in names if name.endswith(f"/{needed}")], needed
    assert wheel.stat().st_size < MAX_WHEEL_MB * 1e6
    assert points.split() == ["[console_scripts]", "psamf-edge", "=", "psamf_edge.cli:main"]
    assert metadata["Requires-Python"] == ">={}.{}".format(*python_floor())
    assert metadata["License-Expression"].startswith("Apache-2.0")
    run_time = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {re.match(r"\w+", line)[0] for line in run_time} == {"numpy", "onnxruntime", "av", "click"}


@pytest.mark.slow
def test_the_source_distribution_holds_all_that_its_tests_need(source, tmp_path):
    archive = build(source, "sdist", tmp_path)
    shutil.unpack_archive(archive, tmp_path, filter="data")
    unpacked = archive.with_name(archive.name.removesuffix(".tar.gz"))
    for folder in OURS:
        wanted = {path.relative_to(source) for path in (source / folder).rglob("*") if path.is_file()}
        assert not {path for path in wanted if not (unpacked / path).is_file()}, folder
    for name in ("Makefile", "README.md", "SECURITY.md", "LICENSE", "NOTICE", "pyproject.toml"):
        assert (unpacked / name).is_file(), name


@pytest.mark.slow
def test_a_bare_environment_runs_it_and_is_bare_again_without_it(bare, wheel):
    before = {path.relative_to(bare) for path in bare.rglob("*") if "__pycache__" not in path.parts}
    pip(bare, "install", "--no-index", "--no-deps", wheel)
    sample = site_packages(bare) / "psamf_edge" / "data" / "sample.mp4"
    result = json.loads(run(bare, "psamf-edge", "infer", sample))
    assert [part["state"] for part in result["segments"][0]["modalities"].values()] == ["present"] * 3
    assert json.loads(run(bare, "psamf-edge", "infer", "--text", "A wonderful film."))["score"] > 0
    findings = json.loads(run(bare, "psamf-edge", "doctor", "--json"))
    assert findings
    assert "psamf_edge" in run(bare, "python", "-c", "import psamf_edge; print(psamf_edge.load.__module__)")
    run(bare, "psamf-edge", "compile", "-o", bare / "x.psamf", code=3)  # PyTorch is not here, and is asked for
    assert not (bare / "x.psamf").exists()
    pip(bare, "uninstall", "--yes", "psamf-edge")
    after = {path.relative_to(bare) for path in bare.rglob("*") if "__pycache__" not in path.parts}
    assert {path for path in after ^ before if path.parts[0] != "home"} == set()
