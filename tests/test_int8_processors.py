"""int8 products on x86 processors that add two of them in 16 bits: those without VNNI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import older_cpu
from psamf_edge.compile.export.quantise import HOW, quantise

ROOT = Path(__file__).parents[1]
INT16_MAX = 2**15 - 1
RUN = """
import json, sys
from pathlib import Path
from benchmarks import older_cpu
site, without, models = json.loads(sys.argv[1])
if without:
    older_cpu.pretend(Path(site), without)
import numpy as np, onnxruntime as ort
x = np.ones((4, 64), np.float32)  # the greatest activation at every place: 255 in unsigned 8 bits
print(json.dumps([ort.InferenceSession(path).run(None, {"x": x})[0].tolist() for path in models]))
"""


def product() -> onnx.ModelProto:
    """x (rows, 64) times weights that are all as great as their scale allows, so that products never cancel out."""
    weight = np.full((64, 16), 0.5, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def integers(model: onnx.ModelProto) -> np.ndarray:
    (weight,) = [each for each in model.graph.initializer if each.name.endswith("_quantized")]
    return numpy_helper.to_array(weight).astype(int)


def test_no_two_products_overflow_16_bits() -> None:
    assert 2 * 255 * np.abs(integers(quantise(product()))).max() <= INT16_MAX
    full = quantise(product(), how={**HOW, "reduce_range": False})
    assert 2 * 255 * np.abs(integers(full)).max() > INT16_MAX  # so that the bound says something


@pytest.mark.slow  # takes ONNX Runtime apart: 10 s
def test_the_same_on_a_processor_without_vnni(tmp_path: Path) -> None:
    avx2 = next(each for each in older_cpu.PROCESSORS if each.name == "AVX2")
    if not avx2.suits(older_cpu.flags()):
        pytest.skip("this processor has nothing that AVX2 lacks")
    try:
        site = older_cpu.prepare(tmp_path)
    except older_cpu.UnavailableError as error:
        pytest.skip(str(error))
    paths = [str(tmp_path / name) for name in ("7.onnx", "8.onnx")]
    onnx.save(quantise(product()), paths[0])
    onnx.save(quantise(product(), how={**HOW, "reduce_range": False}), paths[1])

    def run(without: tuple[int, ...], *path: str) -> list[np.ndarray]:
        command = [sys.executable, "-c", RUN, json.dumps([str(site), without, paths])]
        environment = {"PYTHONPATH": ":".join([*path, str(ROOT)]), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=60)
        return [np.array(values) for values in json.loads(done.stdout)]

    (seven, eight), (old_seven, old_eight) = run(()), run(avx2.without, str(site))
    assert seven == pytest.approx(64 * 0.5)
    assert eight == pytest.approx(64 * 0.5)
    assert old_seven == pytest.approx(64 * 0.5)
    assert np.abs(old_eight - 64 * 0.5).min() > 10  # in silence: 255 * 127 * 2 becomes 32767
