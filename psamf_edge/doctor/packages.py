"""Python packages: those that psamf-edge needs, and those that an extra brings."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from psamf_edge.doctor import machine
from psamf_edge.doctor.finding import BROKEN, MISSING, NOTE, OK, Finding
from psamf_edge.media.child import TOP

GROUP = "packages"
IMPORT_SECONDS = 60  # TensorRT's libraries take several to load from a slow card
SYSTEM_PACKAGES = Path("/usr/lib")  # where JetPack puts TensorRT: python3*/dist-packages
JETPACK_TENSORRT = "sudo apt install python3-libnvinfer"  # pip's TensorRT is not made for a Jetson's driver
DECODERS = ("h264", "hevc", "vp9", "av1", "aac", "opus", "mp3")  # what clips mostly come in


@dataclass(frozen=True)
class Optional:
    """A package of an extra.

    Args:
        brittle: it loads native libraries that may not fit; its import is tried, in a process that they may end.
    """

    module: str
    package: str  # what pip calls it
    extra: str
    serves: str
    brittle: bool = False


OPTIONAL = (
    Optional("tensorrt", "tensorrt", "tensorrt", "engines on Jetson, data-centre and desktop GPUs", True),
    Optional("tensorrt_rtx", "tensorrt-rtx", "rtx", "engines on desktop GPUs", True),
    Optional("cuda.bindings.driver", "cuda-bindings", "rtx", "running engines and kernels", True),
    Optional("cuda.bindings.nvrtc", "cuda-bindings", "rtx", "compiling kernels where they run", True),
    Optional("pycuda.driver", "pycuda", "", "running engines and kernels, in place of cuda-bindings", True),
    Optional("pocketsphinx", "pocketsphinx", "asr", "words from speech, offline"),
    Optional("faster_whisper", "faster-whisper", "asr", "better words from speech, with a model of your own"),
    Optional("matplotlib", "matplotlib", "plot", "PNG timelines"),
    Optional("torch", "torch", "compile", "training and compiling"),
    Optional("transformers", "transformers", "compile", "pre-trained text encoders"),
    Optional("onnx", "onnx", "compile", "compiling"),
)


def package_findings() -> list[Finding]:
    """What everything needs, then the optional ones."""
    return [numpy(), onnxruntime(), *media(), *map(optional, OPTIONAL)]


def numpy() -> Finding:
    """NumPy, which everything computes with."""
    import numpy

    return Finding(GROUP, "numpy", OK, numpy.__version__)


def onnxruntime() -> Finding:
    """Its version and execution providers."""
    try:
        import onnxruntime
    except Exception as error:  # a wheel for another processor fails in many ways
        return Finding(GROUP, "onnxruntime", BROKEN, str(error), "pip install --force-reinstall onnxruntime")
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    return Finding(GROUP, "onnxruntime", OK, f"{onnxruntime.__version__}; providers {providers}")


def media() -> list[Finding]:
    """PyAV and the decoders that its FFmpeg has."""
    try:
        import av
    except Exception as error:
        return [Finding(GROUP, "av", BROKEN, str(error), "pip install --force-reinstall av")]
    lacking = [name for name in DECODERS if name not in av.codecs_available]
    detail = f"{av.__version__}; FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"
    if lacking:
        mend = "pip install --force-reinstall --only-binary av av"
        return [Finding(GROUP, "av", NOTE, f"{detail}, without decoders for {', '.join(lacking)}", mend)]
    return [Finding(GROUP, "av", OK, detail)]


def optional(wanted: Optional) -> Finding:
    """A package that may be missing."""
    name = wanted.module.split(".")[0] if wanted.module.count(".") < 2 else wanted.module
    install = f"pip install 'psamf-edge[{wanted.extra}]'" if wanted.extra else f"pip install {wanted.package}"
    if wanted.module == "tensorrt" and machine.is_jetson():
        install = JETPACK_TENSORRT
    if not _is_there(wanted.module):
        place = system_package(wanted.module)
        if place is not None:  # JetPack's, which a virtual environment does not see
            link = Path(sysconfig.get_path("purelib")) / "jetpack.pth"
            return Finding(
                GROUP, name, MISSING, f"it is in {place}, which this environment does not look in",
                f"echo {place} > {link}", wanted.serves,
            )  # fmt: skip
        return Finding(GROUP, name, MISSING, "not installed", install, wanted.serves)
    error = try_import(wanted.module) if wanted.brittle else None
    if error is None:
        return Finding(GROUP, name, OK, _version(wanted.package))
    if "libcuda" in error or "CUDA driver" in error:  # fails without a driver, and says nothing of itself
        return Finding(
            GROUP, name, NOTE, f"{_version(wanted.package)}; it needs NVIDIA's driver ({error})", None, wanted.serves
        )
    mend = f"pip install --force-reinstall {wanted.package}"
    return Finding(GROUP, name, MISSING, f"installed and not loadable: {error}", mend, wanted.serves)


def system_package(module: str) -> Path | None:
    """The system's package folder that holds a module and that this interpreter does not search."""
    own = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for folder in (SYSTEM_PACKAGES / own / "dist-packages", SYSTEM_PACKAGES / "python3" / "dist-packages"):
        if (folder / module.replace(".", "/")).exists() and str(folder) not in sys.path:
            return folder
    return None


def try_import(module: str) -> str | None:
    """None if the module can be imported, else the last line of what it said."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            cwd=TOP,  # -c imports from the working folder first, and a user may stand among files of others
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"its import takes more than {IMPORT_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"its import ends the process (code {done.returncode})"


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, AttributeError, ValueError):  # the parent is missing, or is no package
        return False


def _version(package: str) -> str:
    for name in (package, f"{package}-cu12", f"{package}-cu13"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"
