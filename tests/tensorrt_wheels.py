"""The modules of tensorrt_api/, and the wheels of TensorRT's bindings that record.py fetches."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent / "tensorrt_api"


def load(name: str) -> ModuleType:
    """A module of the folder, which is no package: its scripts also run by themselves."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


record = load("record")


def wheel_or_skip(version: str, folder: Path) -> Path:
    """The wheel of one version, downloaded; the test is skipped where that or its use cannot be."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc makes the libraries that the bindings are imported against")
    try:
        return record.fetch(version, folder)
    except (subprocess.SubprocessError, ValueError) as error:
        pytest.skip(f"pip cannot fetch {record.PACKAGE} {version} for this Python: {error}")
