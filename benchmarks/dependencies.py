"""The table of dependencies in the README: python -m benchmarks.dependencies

Version ranges are pyproject.toml's, sizes those of the packages installed where this is run; what is not installed has
none.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.measure import save

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Dependency:
    """One package, and what it is here for, or why it is not used."""

    package: str
    reason: str


DEPENDENCIES = (
    Dependency("numpy", "features, and the arrays between all parts"),
    Dependency("onnxruntime", "runs the networks on any CPU, and on CUDA with onnxruntime-gpu"),
    Dependency("av", "decodes clips; its wheels carry FFmpeg, so none has to be installed"),
    Dependency("click", "the command line"),
    Dependency("torch", "the model and its training; never at run time"),
    Dependency("transformers", "the oracle of our text blocks in tests, and the hub's downloads"),
    Dependency("onnx", "the exported graphs: checks, cuts, quantisation"),
    Dependency("onnxscript", "PyTorch's exporter needs it"),
    Dependency("safetensors", "weights without pickle"),
    Dependency("tqdm", "progress of trainings"),
    Dependency("accelerate", "trainings in several processes"),
    Dependency("tensorrt", "engines on Jetson and data-centre GPUs"),
    Dependency("tensorrt-rtx", "engines on desktop GPUs; its builder needs no GPU, so tests build engines"),
    Dependency("cuda-bindings", "the CUDA driver and NVRTC from Python; wheels for x86-64 and aarch64"),
    Dependency("pycuda", "the same driver calls, where it is installed; pip builds it with CUDA's toolkit"),
    Dependency("optimum", "not used: it exports whole Hugging Face models, and ours is cut inside the last text "
               "block; its quantiser is ONNX Runtime's, which we call ourselves"),
    Dependency("pocketsphinx", "speech recognition that works offline"),
    Dependency("faster-whisper", "better speech recognition, with a model the user gives"),
    Dependency("matplotlib", "PNG timelines"),
    Dependency("cryptography", "signatures of bundles, where one asks for them"),
    Dependency("nvidia-cuda-nvrtc", "compiles the kernels on the machine that runs them"),
    Dependency("pytest", "the tests"),
    Dependency("hypothesis", "tests on generated input"),
    Dependency("scikit-learn", "tests: the field's metrics, by others"),
    Dependency("scikit-image", "tests: a photograph with a face"),
    Dependency("tflite", "tests: the face models' own files, read by others"),
    Dependency("jsonschema", "tests: every document against its schema"),
    Dependency("ruff", "lint and format"),
    Dependency("tomli", "settings files on Python 3.10"),
)  # fmt: skip


def places() -> dict[str, tuple[str, str]]:
    """Of each requirement: where it belongs (run time, or the extras) and its range."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, tuple[list[str], str]] = {}
    groups = {"run time": project["dependencies"]}
    groups |= {f"extra {name}": lines for name, lines in project["optional-dependencies"].items()}
    for group, lines in groups.items():
        for line in lines:
            name, range_ = re.match(r"([A-Za-z0-9._-]+)\s*([^;]*)", line).groups()
            found.setdefault(name.lower(), ([], range_.strip()))[0].append(group)
    return {name: (", ".join(where), range_) for name, (where, range_) in found.items()}


def installed(package: str) -> tuple[str, float] | None:
    """Version, and megabytes on disk of the package and, where it is only a name, of those that it stands for."""
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [Path(distribution.locate_file(file)) for file in distribution.files or ()]
    size = sum(path.stat().st_size for path in files if path.is_file() and path.suffix != ".pyc") / 1e6
    parts = [  # tensorrt-rtx is tensorrt-rtx-cu13, which is its libraries and its bindings
        re.match(r"[A-Za-z0-9._-]+", line)[0]
        for line in distribution.requires or ()
        if ";" not in line and line.lower().replace("_", "-").startswith(f"{package.replace('_', '-')}-")
    ]
    return distribution.version, size + sum(found[1] for found in map(installed, parts) if found)


def main() -> None:
    where = places()
    rows = []
    for dependency in DEPENDENCIES:
        found = installed(dependency.package)
        place, range_ = where.get(dependency.package, ("", ""))
        rows.append({
            "package": dependency.package,
            "place": place or "not required",
            "range": range_,
            "version": found and found[0],
            "mb": found and round(found[1], 1),
            "reason": dependency.reason,
        })  # fmt: skip
        print(*rows[-1].values(), sep=" | ")
    record = {"date": date.today().isoformat(), "python": platform.python_version(),
              "system": f"{platform.system()} {platform.machine()}", "packages": rows}  # fmt: skip
    print(f"written to {save('dependencies', record)}", file=sys.stderr)


if __name__ == "__main__":
    main()
