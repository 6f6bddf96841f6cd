"""`compile --fusion plugin`: one engine with our kernel in it, from weights to scores, before the stand-in TensorRT.

Full TensorRT cannot be had here, so no engine has been built with a plugin and none has run: this shows what we ask of
TensorRT, in which order, and that it fits together. The real bindings judge the declarations in test_plugin.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fake_cuda import install_cuda_bindings
from fake_gpu import FakeGpu
from fake_tensorrt import FakeTensorRT
from gpu_bundles import features

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from kernel_student import KernelStudent

from psamf_edge.backends import open_backend
from psamf_edge.bundle import Bundle
from psamf_edge.compile.command import compile_bundle
from psamf_edge.compile.export.precision import lower
from psamf_edge.errors import MissingDependencyError, UsageError
from psamf_edge.kernels.plugin import python_plugin, registration
from psamf_edge.kernels.plugin.onnx_node import for_plugin

KINDS = {
    "10.3.0": "python",
    "10.8.0": "python",
    "10.9.0": "ahead_of_time",
    "10.14.1": "python",
    "11.4.0": "ahead_of_time",
}


@pytest.fixture(scope="module")
def made(kernel_student: KernelStudent) -> KernelStudent:
    return kernel_student


def install(gpu: FakeGpu, patch: pytest.MonkeyPatch, version: str) -> FakeTensorRT:
    stand_in = FakeTensorRT(gpu)
    stand_in.install(patch, "tensorrt", version, ahead_of_time=tuple(map(int, version.split(".")[:2])) >= (10, 9))
    return stand_in


@pytest.fixture(scope="module")
def bundles(made: KernelStudent):
    """`compile --target tensorrt --fusion plugin` before one version: f(version, precision), cached."""
    kept: dict[tuple[str, str], Bundle] = {}

    def build(version: str, precision: str = "fp32") -> Bundle:
        if (version, precision) not in kept:
            with pytest.MonkeyPatch.context() as patch:
                gpu = FakeGpu()
                install_cuda_bindings(gpu, patch)
                trt = install(gpu, patch, version)
                bundle = made.compile("tensorrt", precision, "plugin", version)
            assert trt.builder.built == ["ids", "audio", "face", "hidden"]
            assert trt.builder.quick == ({"psamf::CrossModalAttention"} if KINDS[version] == "ahead_of_time" else set())
            assert not trt.builder.creators  # nothing stays in the registry after the build
            assert gpu.is_clean
            kept[version, precision] = bundle
        return kept[version, precision]

    return build


@pytest.mark.parametrize(("version", "kind"), KINDS.items())
def test_which_plugin_a_version_takes(gpu, monkeypatch, version: str, kind: str) -> None:
    install(gpu, monkeypatch, version)
    assert registration.choose(sys.modules["tensorrt"]) == kind


@pytest.mark.parametrize(("version", "kind"), [("10.3.0", "python"), ("10.9.0", "ahead_of_time")])
def test_from_weights_to_scores(made, bundles, gpu, monkeypatch, version: str, kind: str) -> None:
    bundle = bundles(version)
    trt = install(gpu, monkeypatch, version)
    assert [step.name for step in bundle.plan] == ["text", "audio", "face", "fusion"]
    assert [step.plugin for step in bundle.plan] == [None, None, None, kind]
    assert (bundle.engines.version, bundle.engines.capability, bundle.engines.model) == (version, "8.7", gpu.model)
    assert bundle.needs_gpu
    graph = onnx.load_from_string(bundle.read("fusion.onnx"))
    assert not graph.functions
    assert [node.op_type for node in graph.graph.node if node.domain == "psamf"] == ["CrossModalAttention"]
    plain = made.compile("cpu", "fp32", None)
    with open_backend(bundle, "cuda") as ours, open_backend(plain, "cpu") as theirs:
        # the engine needs Python where it runs for the plugin in Python alone
        assert len(trt.builder.creators) == (kind == "python")
        for present in ("tav", "ta", "v"):
            given = features(bundle, present)
            # float32 sums in another order, as for the plan with the kernel
            assert ours.run(given).score == pytest.approx(theirs.run(given).score, abs=1e-5)
    assert not trt.builder.creators
    assert gpu.is_clean


@pytest.mark.parametrize("precision", ["fp16", "int8-weights"])
def test_one_type_reaches_the_plugin(made, precision: str) -> None:
    """Query, voice, face and weights have one type, and the lengths are int32: what the kernel's signature takes."""
    graph = for_plugin(lower(made.models["fusion"], "fusion", precision, "tensorrt")).graph
    (node,) = (node for node in graph.node if node.domain == "psamf")
    casts = {
        name: attribute.i for n in graph.node if n.op_type == "Cast" for name in n.output for attribute in n.attribute
    }
    weights = {weight.name: weight.data_type for weight in graph.initializer}
    query, audio, face, lengths, packed = node.input
    assert [casts.get(name) for name in (audio, face)] == [onnx.TensorProto.FLOAT16] * 2
    assert weights[packed] == onnx.TensorProto.FLOAT16
    assert casts.get(query, onnx.TensorProto.FLOAT16) == onnx.TensorProto.FLOAT16
    assert casts.get(lengths, onnx.TensorProto.INT32) == onnx.TensorProto.INT32


def test_backends_share_one_registration(bundles, gpu, monkeypatch) -> None:
    trt = install(gpu, monkeypatch, "10.3.0")
    bundle = bundles("10.3.0")
    first = open_backend(bundle, "cuda")
    with open_backend(bundle, "cuda"):
        assert len(trt.builder.creators) == 1
    assert len(trt.builder.creators) == 1
    first.run(features(bundle))
    first.close()
    assert not trt.builder.creators
    assert gpu.is_clean


def test_a_backend_that_does_not_open_leaves_no_registration(bundles, gpu, monkeypatch) -> None:
    trt = install(gpu, monkeypatch, "10.3.0")
    bundle = bundles("10.3.0")
    trt.refuse = "engine"
    with pytest.raises(MissingDependencyError):
        open_backend(bundle, "cuda")
    assert not trt.builder.creators
    assert gpu.is_clean


def test_where_it_cannot_be(tiny_weights, tmp_path: Path, gpu, monkeypatch) -> None:
    out = tmp_path / "out.psamf"
    with pytest.raises(UsageError, match="no fusion plugin"):
        compile_bundle(tiny_weights, out, "cpu", fusion="plugin")
    with pytest.raises(UsageError, match=r"rtx takes no plugins, full TensorRT alone does: use --fusion kernel"):
        compile_bundle(tiny_weights, out, "rtx", fusion="plugin")
    install(gpu, monkeypatch, "10.2.0")
    with pytest.raises(UsageError, match=r"10\.2\.0 is older than 10\.3"):
        compile_bundle(tiny_weights, out, "tensorrt", fusion="plugin")
    trt = FakeTensorRT(gpu).install(monkeypatch, "tensorrt", "10.3.0")
    monkeypatch.delattr(trt, "IPluginV3OneBuild")
    with pytest.raises(UsageError, match=r"10\.3\.0 lacks the class IPluginV3OneBuild"):
        compile_bundle(tiny_weights, out, "tensorrt", fusion="plugin")
    install(gpu, monkeypatch, "10.9.0")
    with pytest.raises(UsageError, match="width of 64 with 2 heads"):  # the tiny student has 16
        compile_bundle(tiny_weights, out, "tensorrt", fusion="plugin")
    assert not out.exists()
    assert gpu.is_clean


def test_10_9_without_its_plugin_module_takes_the_python_one(gpu, monkeypatch) -> None:
    trt = FakeTensorRT(gpu).install(monkeypatch, "tensorrt", "10.9.0", ahead_of_time=False)
    assert registration.choose(trt) == "python"


def test_a_plugin_that_cannot_be_registered_leaves_no_driver(gpu, monkeypatch) -> None:
    trt = FakeTensorRT(gpu).install(monkeypatch, "tensorrt", "10.3.0")

    def broken(*args) -> None:
        raise UsageError("no")

    monkeypatch.setattr(python_plugin, "register", broken)
    with pytest.raises(UsageError), registration.registered(trt, "python"):
        raise AssertionError
    assert gpu.is_clean
    assert registration._users == 0


def test_onnxruntime_refuses_it_and_says_so(bundles, gpu, monkeypatch) -> None:
    install(gpu, monkeypatch, "10.9.0")
    bundle = bundles("10.9.0")
    with pytest.raises(UsageError, match="has a CUDA kernel inside its TensorRT engines"):
        open_backend(bundle, "cpu")
    gpu.fail["cuDeviceGet"] = 100
    with pytest.raises(MissingDependencyError):  # auto has nowhere else to go
        open_backend(bundle, "auto")


def test_no_engines_needs_no_tensorrt_and_the_device_builds(made, gpu, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        for flavour in ("tensorrt", "tensorrt_rtx"):
            patch.setitem(sys.modules, flavour, None)
        bundle = made.compile("tensorrt", "fp32", "kernel", "no engines")
        with pytest.raises(UsageError, match="leave out --no-engines"):
            made.compile("tensorrt", "fp32", "plugin", "no engines")
    assert bundle.engines is None
    assert [step.name for step in bundle.plan][3:] == ["query", "cross_modal_attention", "score"]
    assert not [name for name in bundle.files if name.endswith(".engine")]
    trt = install(gpu, monkeypatch, "10.3.0")
    monkeypatch.setenv("PSAMF_EDGE_LOW_MEMORY", "1")
    with open_backend(bundle, "cuda") as backend:
        assert "5 engines" in backend.note
    assert trt.builder.built == ["ids", "audio", "face", "hidden", "query"]
    assert set(trt.builder.threads) == {1}
    assert gpu.is_clean


def test_a_plugin_of_another_kind_is_built_anew(bundles, gpu, monkeypatch) -> None:
    """Compiled before 10.9, with the plugin ahead of time, and run before 10.3, which takes the one in Python."""
    trt = install(gpu, monkeypatch, "10.3.0")
    with open_backend(bundles("10.9.0"), "cuda") as backend:
        assert "those of the bundle are for tensorrt 10.9.0, and tensorrt 10.3.0 is installed here" in backend.note
        assert len(trt.builder.creators) == 1
        backend.run(features(bundles("10.9.0")))
    assert not trt.builder.creators
    assert gpu.is_clean
