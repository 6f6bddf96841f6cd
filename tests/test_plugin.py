"""The kernel as a TensorRT plugin: its declarations before the real bindings, and its launch on the stand-in GPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_cuda import install_cuda_bindings
from fake_gpu import FakeGpu
from tensorrt_wheels import HERE, record, wheel_or_skip
from test_executor_kernel import kernel_work

from psamf_edge.backends.cuda_bindings_driver import CudaBindingsDriver
from psamf_edge.errors import UsageError
from psamf_edge.kernels import compiler
from psamf_edge.kernels.cross_modal_attention import host
from psamf_edge.kernels.cross_modal_attention.launcher import ENTRIES
from psamf_edge.kernels.cross_modal_attention.packing import ROW, WIDTH
from psamf_edge.kernels.plugin import ahead_of_time, python_plugin

PYTHON = {
    "creator": ["CrossModalAttention", "psamf", "1", 0],
    "plugin": ["CrossModalAttention", "psamf", "1", 1],
    "types": [True, True],
    "fields": 0,
    "kinds": [True, True],
}
AHEAD_OF_TIME = {
    "creators": [["CrossModalAttention", "psamf"]],
    "inputs": ["query", "audio", "face", "lengths", "weights"],
    "outputs": 1,
    "contexts": [2, 1, 4, WIDTH],
    "half": True,
    "entry": "psamf_cross_modal_attention_f16",
    "code": "compute_87: True",
    "launch": True,
    "scalars": [1, 4, 375, 300],
}


@pytest.mark.slow
@pytest.mark.parametrize("version", record.VERSIONS)
def test_the_real_bindings_take_the_declarations(version: str, tmp_path: Path) -> None:
    wheel = wheel_or_skip(version, tmp_path)
    record.unpack(wheel, tmp_path)
    command = [sys.executable, "-W", "ignore", HERE / "declare_plugins.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # TensorRT's own warnings come before
    assert found["python"] == PYTHON
    if version.startswith("10.3"):
        assert "takes no plugins compiled ahead of time" in found["ahead of time"]
    else:
        assert found["ahead of time"] == AHEAD_OF_TIME


@pytest.mark.parametrize(
    ("name", "version"), [("tensorrt_rtx", "1.7.1"), ("tensorrt", "10.8.0"), ("tensorrt", "10.14.1")]
)
def test_versions_without_plugins_ahead_of_time_are_refused(name: str, version: str) -> None:
    module = ModuleType(name)
    module.__version__ = version
    with pytest.raises(UsageError, match="launches the kernel between engines"):
        ahead_of_time.declare(module, "compute_87")


def test_rtx_never_sees_a_creator() -> None:
    with pytest.raises(UsageError, match="takes no plugins"):
        python_plugin.register(ModuleType("tensorrt_rtx"), driver=None)


@pytest.mark.skipif(shutil.which("g++") is None, reason="the kernel's text needs g++ to run on the host")
@pytest.mark.trt
@pytest.mark.parametrize("dtype", ENTRIES, ids=str)
def test_enqueue_launches_the_kernel(monkeypatch: pytest.MonkeyPatch, dtype: np.dtype) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="its bindings have the plugin's base classes")
    gpu = FakeGpu()
    gpu.kernels = {entry: kernel_work(kind) for kind, entry in ENTRIES.items()}
    install_cuda_bindings(gpu, monkeypatch)
    monkeypatch.setattr(compiler, "nvrtc", lambda source, arch: " ".join(ENTRIES.values()).encode())
    B, S, Ta, Tv = 2, 3, 20, 7
    rng = np.random.default_rng(0)
    inputs = [
        rng.standard_normal((B, S, WIDTH)).astype(dtype), rng.standard_normal((B, Ta, WIDTH)).astype(dtype),
        rng.standard_normal((B, Tv, WIDTH)).astype(dtype), rng.integers(0, 8, (B, S, 2)).astype(np.int32),
        (0.1 * rng.standard_normal((2, ROW))).astype(dtype),
    ]  # fmt: skip
    driver = CudaBindingsDriver()
    plugin = python_plugin.plugin_creator(trt, python_plugin.Kernels(driver)).create_plugin("n", None, None)
    kinds = {np.dtype(np.float32): trt.DataType.FLOAT, np.dtype(np.float16): trt.DataType.HALF}
    kinds[np.dtype(np.int32)] = trt.DataType.INT32
    descriptions = [SimpleNamespace(dims=value.shape, type=kinds[value.dtype]) for value in inputs]
    with driver.current():
        stream = driver.stream()
        pointers = [driver.upload(value) for value in inputs]
        size = 2 * B * S * WIDTH * dtype.itemsize
        out, result = driver.allocate(size), driver.host_buffer(size, mapped=False)
        for _ in range(2):
            plugin.clone().enqueue(descriptions, [], pointers, [out], 0, stream)
        driver.copy_out(result, out, size, stream)
        driver.synchronise(stream)
        got = result.array.view(dtype).reshape(2, B, S, WIDTH).copy()
    driver.close()
    assert np.array_equal(got, host.run(*inputs))
    assert gpu.names().count("cuModuleLoadData") == 1
    assert gpu.is_clean


@pytest.mark.trt
def test_formats_and_types() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="its bindings have the plugin's base classes")
    plugin = python_plugin.plugin_creator(trt, python_plugin.Kernels(None)).create_plugin("n", None, None)
    FLOAT, HALF, INT32 = trt.DataType.FLOAT, trt.DataType.HALF, trt.DataType.INT32

    def takes(position: int, kinds: list, layout=trt.TensorFormat.LINEAR) -> bool:
        values = [SimpleNamespace(desc=SimpleNamespace(type=kind, format=layout)) for kind in kinds]
        return plugin.supports_format_combination(position, values, 5)

    for kind in (FLOAT, HALF):
        kinds = [kind, kind, kind, INT32, kind, kind]
        assert all(takes(position, kinds) for position in range(6))
        assert not any(takes(position, kinds, trt.TensorFormat.HWC8) for position in range(6))
    assert not takes(1, [FLOAT, HALF])
    assert not takes(3, [FLOAT, FLOAT, FLOAT, FLOAT])
    assert not takes(0, [INT32])


def test_the_node_names_the_plugin_and_loses_its_body() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("torch")
    from onnx import TensorProto, helper

    from psamf_edge.compile.export.cross_modal_op import DOMAIN, INPUTS, OP, attach_body
    from psamf_edge.kernels.plugin.onnx_node import for_plugin

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*INPUTS, "contexts")]
    node = helper.make_node(OP, INPUTS, ["contexts"], domain=DOMAIN)
    model = helper.make_model(
        helper.make_graph([node], "g", values[:-1], values[-1:]), opset_imports=[helper.make_opsetid("", 20)]
    )
    attach_body(model, 20)
    made = for_plugin(model)
    assert (len(model.functions), len(made.functions)) == (1, 0)
    (found,) = made.graph.node
    assert {item.name: onnx.helper.get_attribute_value(item) for item in found.attribute} == {
        "plugin_namespace": b"psamf",
        "plugin_version": b"1",
    }
