"""Real engines from TensorRT-RTX, which builds them without a GPU."""

from __future__ import annotations

import contextlib

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
pytest.importorskip("torch")

from psamf_edge.backends import open_backend
from psamf_edge.backends.engine_builder import BuildError, EngineBuilder
from psamf_edge.compile.precisions import PRECISIONS
from psamf_edge.errors import MissingDependencyError

pytestmark = pytest.mark.trt


@pytest.fixture(scope="module")
def builder() -> EngineBuilder:
    return EngineBuilder("tensorrt_rtx")


def test_a_model_that_does_not_parse(builder: EngineBuilder) -> None:
    with pytest.raises(BuildError, match="segment junk does not parse"):
        builder.build(b"junk", "junk", {})


def test_a_model_with_an_unknown_operator(builder: EngineBuilder) -> None:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("NoSuchOp", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(BuildError, match="NoSuchOp"):
        builder.build(model.SerializeToString(), "odd", {})


def test_a_range_that_cannot_be(builder: EngineBuilder, tiny_export) -> None:
    segment = tiny_export.segments[0]
    with pytest.raises(BuildError):
        builder.build(tiny_export.models["text"].SerializeToString(), "text", segment.ranges | {"tokens": (9, 5, 1)})


@pytest.mark.parametrize("precision", PRECISIONS["rtx"])
def test_a_whole_bundle(compile_tiny, precision: str) -> None:
    bundle = compile_tiny("rtx", precision)
    assert (bundle.target, bundle.precision, bundle.engines.flavour) == ("rtx", precision, "tensorrt_rtx")
    for segment in bundle.plan:
        assert len(bundle.read(segment.engine)) > 10_000  # native code for several architectures, and not an empty plan
    bundle.verify()
    with contextlib.suppress(MissingDependencyError):  # any other error is a failure, with a GPU and without
        open_backend(bundle, "cuda").close()
