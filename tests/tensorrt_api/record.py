"""Writes down the Python API of a TensorRT version, from its real bindings.

    python tests/tensorrt_api/record.py --fetch    # the wheels of VERSIONS, by pip
    python tests/tensorrt_api/record.py --installed tensorrt_rtx

The bindings' wheels are a megabyte each and hold no TensorRT: they link to it. To be imported they need no more than
libraries of the right names that have the nine C functions they ask for, so gcc makes such from a few lines. Nothing is
called but what describes itself; it shows the API, and is never a proof that an engine builds or runs.

Records are `VERSION.json` beside this file: classes with their members, each method with its signatures, and functions.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
PACKAGE = "tensorrt-cu12-bindings"
# JetPack 6's, the first with plugins compiled ahead of time, the last of 10 before they broke in 10.14, and 11
VERSIONS = ("10.3.0", "10.9.0.34", "10.13.3.9", "11.4.0.106")
C_FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion",
    "getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
# what the backend, the builder and the plugins use; the whole of a version would be ten times as much
CLASSES = (
    "Builder", "BuilderFlag", "ComputeCapability", "DataType", "DimsExprs", "DynamicShapesKernelSpecializationStrategy",
    "ExecutionContextAllocationStrategy", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IExprBuilder",
    "IHostMemory", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IPluginCapability", "IPluginCreatorV3One",
    "IPluginV3", "IPluginV3OneBuild", "IPluginV3OneCore", "IPluginV3OneRuntime", "IPluginRegistry", "IRuntimeCache",
    "IRuntimeConfig", "ITensor", "ITimingCache", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser",
    "ParserError", "PluginCapabilityType", "PluginField", "PluginFieldCollection", "PluginFieldCollection_",
    "PluginTensorDesc", "Runtime", "TensorFormat", "TensorRTPhase",
)  # fmt: skip


def describe(module: ModuleType) -> dict:
    """The record of an imported module."""
    classes = {name: _members(getattr(module, name)) for name in CLASSES if hasattr(module, name)}
    functions = {}
    for name, value in vars(module).items():
        if not name.startswith("_") and callable(value) and not isinstance(value, type):
            functions[name] = _signatures(value, name)
    return {"version": module.__version__, "classes": classes, "functions": dict(sorted(functions.items()))}


def _members(kind: type) -> dict[str, list[str] | str]:
    """Methods with their signatures; properties and values as "property" and "value"."""
    members: dict[str, list[str] | str] = {}
    for name in sorted(dir(kind)):
        if name.startswith("_") and name != "__init__":
            continue
        value = getattr(kind, name)
        if isinstance(value, property):
            members[name] = "property"
        elif callable(value):
            members[name] = _signatures(value, name)
        else:
            members[name] = "value"
    return members


def _signatures(value: object, name: str) -> list[str]:
    """The parameters of each overload, as pybind11 writes them at the head of the docstring."""
    found = re.findall(rf"^(?:\d+\. )?{re.escape(name)}(\(.*\))(?: -> .*)?$", value.__doc__ or "", re.MULTILINE)
    overloads = [text for text in found if "*args, **kwargs" not in text]
    if overloads:
        return [re.sub(r"[\w.]*\btensorrt\w*\.", "", text) for text in overloads]
    try:
        return [str(inspect.signature(value))]
    except (TypeError, ValueError):
        return []


def record_wheel(wheel: Path) -> dict:
    """The record of a wheel of bindings, imported in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(wheel, Path(folder))
        code = "import sys, json; sys.path[:0] = sys.argv[1:]; import record, tensorrt_bindings as module;"
        code += "print(json.dumps(record.describe(module)))"
        command = [sys.executable, "-W", "ignore", "-c", code, folder, str(HERE)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"wheel": wheel.name, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(), **found}


def unpack(wheel: Path, folder: Path) -> None:
    """Make `tensorrt_bindings` importable from a folder: what it links to lies beside it, and does nothing."""
    zipfile.ZipFile(wheel).extractall(folder)
    package = folder / "tensorrt_bindings"
    bindings = (package / "tensorrt.so").read_bytes()
    source = package / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in C_FUNCTIONS))
    for name in sorted(set(re.findall(rb"libnv[a-z_]+\.so\.\d+", bindings))):
        library = package / name.decode()
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, source], check=True, timeout=60
        )


def fetch(version: str, folder: Path) -> Path:
    """Download one wheel for this Python with pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*command, f"{PACKAGE}=={version}"], check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob(f"*-{version}-*.whl")
    return wheel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="*", type=Path, help="wheels of bindings that are here already")
    parser.add_argument("--fetch", action="store_true", help=f"download {', '.join(VERSIONS)}")
    parser.add_argument("--installed", help="the name of an installed module that imports as it is")
    given = parser.parse_args()
    records = {}
    with tempfile.TemporaryDirectory() as folder:
        wheels = [*given.wheels, *(fetch(version, Path(folder)) for version in VERSIONS if given.fetch)]
        for wheel in wheels:
            found = record_wheel(wheel)
            records[f"tensorrt-{found['version']}"] = found
    if given.installed:
        found = describe(__import__(given.installed))
        records[f"{given.installed}-{found['version']}"] = found
    for name, found in records.items():
        (HERE / f"{name}.json").write_text(json.dumps(found, indent=0) + "\n")
        print(name, sum(map(len, found["classes"].values())), "members")


if __name__ == "__main__":
    main()
