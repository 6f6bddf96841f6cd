"""Engines that load, with the real builder of TensorRT-RTX, which needs no GPU. What needs one is only to load them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
onnx = pytest.importorskip("onnx")

from small_bundle import SHAPES, small_bundle, text_model

from psamf_edge.backends.engine_builder import BuildError, BuildOptions, EngineBuilder
from psamf_edge.backends.engine_source import EngineSource
from psamf_edge.backends.profile import ranges_of
from psamf_edge.engine_cache import EngineCache
from psamf_edge.errors import IntegrityError

pytestmark = pytest.mark.trt

DEFAULT = BuildOptions()
MAGIC = b"vtrt"  # how the engines of TensorRT-RTX begin


def load(content: bytes, segment, kernels: bytes | None) -> SimpleNamespace:
    """In the place of an Engine: what cannot be an engine is refused, as by TensorRT."""
    if not content.startswith(MAGIC):
        raise IntegrityError(f"TensorRT cannot load the engine of the segment {segment.name}.")
    return SimpleNamespace(content=content, compiled_kernels=lambda: b"kernels of " + segment.name.encode())


def engines(bundle, options: BuildOptions = DEFAULT, capability=(8, 6)) -> tuple[list[bytes], EngineSource]:
    source = EngineSource(bundle, rtx, capability, "a GPU", EngineCache(), options)
    made = [source.engine(segment, load).content for segment in bundle.plan]
    source.close()
    return made, source


@pytest.mark.parametrize("options", [DEFAULT, BuildOptions(low_memory=True)], ids=["default", "low memory"])
def test_a_bundle_gets_real_engines_once(tmp_path: Path, options: BuildOptions) -> None:
    bundle = small_bundle(tmp_path / "b.psamf")
    built, source = engines(bundle, options)
    assert all(len(engine) > 10_000 for engine in built)  # native code, and not an empty plan
    assert source.note == "TensorRT built 2 engines on this machine (text, fusion), since the bundle carries none."
    again, source = engines(bundle, options)
    assert (again, source.note) == (built, None)


def test_another_device_and_a_broken_engine_are_built_anew(tmp_path: Path, engine_cache: Path) -> None:
    bundle = small_bundle(tmp_path / "b.psamf")
    engines(bundle)
    _, source = engines(bundle, capability=(12, 0))
    assert source.note.endswith("since those in the cache have the capability 8.6, and 12.0 is due.")
    for path in (engine_cache / "engines").glob("*.engine"):
        path.write_bytes(path.read_bytes()[:1000])
    made, source = engines(bundle)
    assert "is damaged" in source.note
    assert all(len(engine) > 10_000 for engine in made)


def test_the_real_parser_names_the_axes(tmp_path: Path) -> None:
    model = text_model()
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "words"
    with pytest.raises(BuildError, match="text_mask of the segment text has an axis 'words'"):
        EngineBuilder("tensorrt_rtx").build(model.SerializeToString(), "text", ranges_of(SHAPES))


def test_the_real_builder_builds_for_turing() -> None:
    model = text_model().SerializeToString()
    turing, others = (
        EngineBuilder("tensorrt_rtx", capability=capability).build(model, "text", ranges_of(SHAPES))
        for capability in ("7.5", "8.6")
    )
    assert len(turing) > 10_000
    assert turing != others


KILLED = """
import sys
from types import SimpleNamespace
import tensorrt_rtx
from psamf_edge.backends.engine_builder import BuildOptions, EngineBuilder
from psamf_edge.backends.engine_source import EngineSource
from psamf_edge.bundle import open_bundle
from psamf_edge.engine_cache import EngineCache

bundle, real = open_bundle(sys.argv[1]), EngineBuilder.build

def build(self, model, name, *rest):
    print(name, flush=True)
    return real(self, model, name, *rest)

EngineBuilder.build = build
source = EngineSource(bundle, tensorrt_rtx, (8, 6), "a GPU", EngineCache(), BuildOptions())
for segment in bundle.plan:
    source.engine(segment, lambda content, segment, kernels: SimpleNamespace(compiled_kernels=lambda: None))
"""


@pytest.mark.parametrize("at", ["text", "fusion"])
def test_a_kill_in_the_middle_of_a_build_keeps_what_was_built(tmp_path: Path, engine_cache: Path, at: str) -> None:
    bundle = small_bundle(tmp_path / "b.psamf")
    child = subprocess.Popen([sys.executable, "-c", KILLED, bundle.path], stdout=subprocess.PIPE, text=True)
    while child.stdout.readline().strip() != at:
        assert child.poll() is None
    child.kill()
    child.communicate()
    kept = [path.read_bytes() for path in (engine_cache / "engines").glob("*.engine")]
    assert len(kept) == (at == "fusion")
    made, source = engines(bundle)
    assert all(len(engine) > 10_000 for engine in made)
    assert set(kept) <= set(made)
    assert f"({'text, fusion' if at == 'text' else 'fusion'})" in source.note
    assert not list((engine_cache / "engines").glob(".part-*"))


CHILD = """
import sys
for name in ("onnx", "torch", "onnxscript", "psamf_edge.compile"):
    sys.modules[name] = None
from psamf_edge.backends.engine_builder import EngineBuilder
from psamf_edge.backends.profile import ranges_of
from psamf_edge.bundle import open_bundle

bundle = open_bundle(sys.argv[1])
builder = EngineBuilder("tensorrt_rtx")
for segment in bundle.plan:
    print(segment.name, len(builder.build(bundle.read(segment.file), segment.name, ranges_of(bundle.shapes))))
"""


def test_building_needs_no_package_of_the_compiler(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "b.psamf")
    done = subprocess.run([sys.executable, "-c", CHILD, bundle.path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sizes = dict(line.split() for line in done.stdout.splitlines())
    assert {name for name, size in sizes.items() if int(size) > 10_000} == {"text", "fusion"}
