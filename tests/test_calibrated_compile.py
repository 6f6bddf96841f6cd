"""A compile with calibrated activations: what it says, keeps and records, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
from onnx import TensorProto, helper
from small_bundle import small_bundle

from psamf_edge.backends import open_backend
from psamf_edge.backends.engines import check_capability
from psamf_edge.bundle import PlanSegment
from psamf_edge.cli import main
from psamf_edge.compile.command import compile_bundle
from psamf_edge.compile.export import onnx_export
from psamf_edge.compile.export.lowering import compare_all, cut, lower_parts
from psamf_edge.compile.export.onnx_export import beyond_limits
from psamf_edge.compile.export.partition import SegmentPart
from psamf_edge.compile.export.preflight import UnsupportedError, check_operators
from psamf_edge.compile.precisions import PRECISIONS, is_calibrated
from psamf_edge.compile.quality.bounds import Bounds, Quality
from psamf_edge.compile.quality.check_set import check_set
from psamf_edge.compile.quality.gate import Gate
from psamf_edge.compile.quantisation.stages import calibrate
from psamf_edge.compile.source import open_source
from psamf_edge.compile.work import Work
from psamf_edge.errors import UsageError
from psamf_edge.plan import Features

Q_DQ = ("QuantizeLinear", "DequantizeLinear")


@pytest.fixture
def quick(tiny_export, monkeypatch: pytest.MonkeyPatch) -> None:
    """compile_bundle and the command take the exports that are there already."""
    monkeypatch.setattr(onnx_export, "export", lambda segment: tiny_export.models[segment.plan.name])


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(f"r{i}", f"it is {'very ' * (i % 4)}good", 1.0) for i in range(300)]
        csv.writer(file).writerows([("id", "text", "label"), *rows])
    return path


@pytest.fixture(scope="module")
def exported(tiny_export):
    return [cut(tiny_export.models[s.plan.name], s, None) for s in tiny_export.segments]


@pytest.fixture(scope="module")
def samples(tiny_bundle):
    return check_set(tiny_bundle.read("vocab.txt"), tiny_bundle.shapes)


@pytest.fixture(scope="module")
def calibrations(exported, tiny_weights, tmp_path_factory):
    """f(precision): a calibration of the tiny student on the check set, cached."""
    made, folder = {}, tmp_path_factory.mktemp("calibrations")

    def of(precision: str):
        if precision not in made:
            work = Work(folder / precision)
            source = open_source(tiny_weights)
            made[precision] = calibrate(work, {}, source, exported, precision, None, lambda line: None)
            work.close(done=True)
        return made[precision]

    return of


def compile_for_gpu(weights: Path, output: Path, precision: str, data: Path | None = None, lines: list | None = None):
    """For TensorRT, whose engines the device builds."""
    quality = Quality(Bounds(gap=1, worst=3), calibrate=data)
    log = (lambda line: None) if lines is None else lines.append
    return compile_bundle(weights, output, "tensorrt", precision, "tiny", log=log, quality=quality, engines=False)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_without_data_the_check_set_calibrates_and_is_named(quick, tiny_weights, tmp_path, precision: str) -> None:
    lines: list[str] = []
    bundle = compile_for_gpu(tiny_weights, tmp_path / "o.psamf", precision, lines=lines)
    assert "    calibrated on synthetic check set 1 (32 samples)" in lines
    assert any("--calibrate DATA.csv takes" in line for line in lines)
    record = bundle.provenance["calibration"]
    assert [each["name"] for each in record["data"]] == ["synthetic check set 1"]
    assert len(record["data"][0]["sha256"]) == 64
    counts = {}
    kind = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}[precision]
    for step in bundle.plan:
        model = onnx.load_from_string(bundle.read(step.file))
        onnx.checker.check_model(model, full_check=True)
        quantised = {node.op_type for node in model.graph.node} & set(Q_DQ)
        counts[step.name] = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
        assert quantised == (set(Q_DQ) if step.name in ("text", "fusion") else set())
        kinds = {weight.data_type for weight in model.graph.initializer}
        assert (kind in kinds) == bool(quantised)
        assert TensorProto.UINT8 not in kinds
    assert counts["text"] == 4  # of its one block: for query, key and value, out, up, down
    assert record["activations"] == sum(counts.values())
    with open_backend(bundle, "cpu") as backend:  # where there is no GPU, the Q/DQ graphs run as they are
        assert np.isfinite(backend.run(Features(np.array([2, 5, 3]))).score)


class StopError(Exception):
    """Ends a compile from outside."""


def test_a_resumed_compile_calibrates_once_and_anew_on_other_data(
    quick, tiny_weights, sentences: Path, tmp_path, monkeypatch
) -> None:
    output = tmp_path / "o.psamf"
    write = Work._write

    def stop(self, name, digest, files):
        if name == "lower":
            raise StopError
        write(self, name, digest, files)

    def interrupted(lines: list[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Work, "_write", stop)
            with pytest.raises(StopError):
                compile_for_gpu(tiny_weights, output, "int8", sentences, lines)

    def calibrated(lines: list[str]) -> bool:
        """Whether the stage was run, and not read."""
        at = next(i for i, line in enumerate(lines) if "smoothing and ranges" in line)
        end = next(line for line in lines[at + 1 :] if " s" in line)
        return "finished before" not in end

    runs: list[list[str]] = [[], [], [], []]
    interrupted(runs[0])
    interrupted(runs[1])
    sentences.write_text(sentences.read_text() + "x,it was bad,-1\n", encoding="utf-8")
    interrupted(runs[2])
    bundle = compile_for_gpu(tiny_weights, output, "int8", sentences, runs[3])
    assert [calibrated(lines) for lines in runs] == [True, False, True, False]
    assert "    calibrated on train.csv (256 samples) and synthetic check set 1 (32 samples)" in runs[3]
    given, check = bundle.provenance["calibration"]["data"]
    # the file names no clips: its digest is of the one hash
    hashes = json.dumps([hashlib.sha256(sentences.read_bytes()).hexdigest()])
    assert given["sha256"] == hashlib.sha256(hashes.encode()).hexdigest()
    assert (given["n"], given["labelled"], check["n"]) == (256, 256, 32)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_outputs_stay_near_pytorch_on_what_the_model_meets(exported, calibrations, precision: str) -> None:
    calibration = calibrations(precision)
    assert {name: len(inputs) for name, inputs in calibration.inputs.items()} == {
        "text": 5, "audio": 5, "face": 5, "fusion": 8  # of the first eight samples, those with the modality
    }  # fmt: skip
    parts = [part for each in exported for part in each.parts]
    lowered = lower_parts(parts, precision, "tensorrt", calibration=calibration)
    assert beyond_limits(compare_all(exported, lowered, calibration), precision) == []


def test_guilty_layers_are_found_and_kept(exported, calibrations, samples, tiny_bundle) -> None:
    precision, parts = "int8", [part for each in exported for part in each.parts]
    calibration = calibrations(precision)
    everything = {part.plan.name: {node.name for node in part.model.graph.node} for part in parts}
    half = lower_parts(parts, "fp16", "rtx")
    kept = lower_parts(parts, precision, "rtx", everything, calibration)
    for ours, theirs in zip(kept, half, strict=True):
        assert ours.model.graph.node == theirs.model.graph.node
    options = (exported, tiny_bundle.shapes, samples[:8], precision, "rtx")
    whole = Gate(*options, Bounds(), calibration).judge(lower_parts(parts, precision, "rtx", calibration=calibration))
    gate = Gate(*options, Bounds(gap=whole.comparison.gap / 2), calibration)
    found = gate.search(lambda line: None)
    assert {blame.part for blame in found if blame.gap > 0} == {"text", "fusion"}
    mended, layers = gate.mend(found, lambda line: None)
    assert mended.broken == []
    assert len(layers) > 0
    count = [sum(n.op_type == "QuantizeLinear" for p in judged.parts for n in p.model.graph.node)
             for judged in (whole, mended)]  # fmt: skip
    assert count[1] < count[0]


def test_what_cannot_be_is_refused_before_the_work(tiny_weights, sentences: Path, tmp_path) -> None:
    run = lambda *more: CliRunner().invoke(  # noqa: E731
        main, ["compile", str(tiny_weights), "-o", str(tmp_path / "o.psamf"), *map(str, more)]
    )
    for more, words in (
        (("--precision", "fp8"), "The target cpu has no precision fp8; allowed are int8, fp32"),
        (("--calibrate", sentences), "Nothing is calibrated for cpu in int8"),
        (("--target", "rtx", "--no-engines", "--calibrate", sentences), "Nothing is calibrated for rtx in fp16"),
        (("--target", "tensorrt", "--precision", "int8", "--calibrate", tmp_path / "no.csv"), "no.csv cannot be read"),
    ):  # fmt: skip
        result = run(*more)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr
    assert not (tmp_path / ".o.psamf.work").exists()


def test_fp8_needs_a_gpu_that_has_it(tmp_path, trt, gpu) -> None:
    for capability in ("7.5", "8.0", "8.6", "8.7"):
        with pytest.raises(UsageError, match=rf"8\.9 or later, and this one has {capability}"):
            check_capability("fp8", capability)
        check_capability("int8", capability)
    for capability in ("8.9", "9.0", "10.0", "12.1", None):
        check_capability("fp8", capability)
    gpu.capability = (8, 7)
    with pytest.raises(UsageError, match="fp8 needs a GPU"):
        open_backend(small_bundle(tmp_path / "b.psamf", "tensorrt", "fp8"), "cuda")
    assert gpu.is_clean


def test_the_table_of_precisions() -> None:
    assert {(target, p) for target, all_ in PRECISIONS.items() for p in all_ if is_calibrated(p, target)} == {
        ("rtx", "int8"), ("rtx", "fp8"), ("tensorrt", "int8"), ("tensorrt", "fp8")
    }  # fmt: skip


def q_dq(kind: int, zero: bytes = b"\0", opset: int = 20) -> SegmentPart:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "down"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "up"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens"]) for name in "xy"]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("zero", kind, [], zero, raw=True),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], constants), opset_imports=[helper.make_opsetid("", opset)]
    )
    return SegmentPart(PlanSegment("text", "text.onnx", ("x",), ("y",)), model)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (q_dq(TensorProto.UINT8), "node down (QuantizeLinear): its numbers are UINT8; TensorRT takes INT8 and"),
        (q_dq(TensorProto.INT16, b"\0\0"), "its numbers are INT16"),
        (q_dq(TensorProto.FLOAT8E5M2), "its numbers are FLOAT8E5M2"),
        (q_dq(TensorProto.INT8, b"\3"), "its zero point is not 0"),
        (q_dq(TensorProto.FLOAT8E4M3FN, opset=18), "fp8 came with opset 19, and the file has 18"),
    ],
)  # fmt: skip
def test_numbers_that_tensorrt_does_not_take_are_named(part: SegmentPart, words: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        check_operators([part], "tensorrt", None, None)
    assert words in str(caught.value)


def test_numbers_that_tensorrt_takes() -> None:
    check_operators([q_dq(TensorProto.INT8), q_dq(TensorProto.FLOAT8E4M3FN, opset=19)], "tensorrt", None, None)


def test_the_cut_fusion_is_calibrated_before_the_kernel(kernel_student) -> None:
    bundle = kernel_student.compile("tensorrt", "int8", "kernel", "no engines")
    segments = [step for step in bundle.plan if isinstance(step, PlanSegment)]
    graphs = {step.name: onnx.load_from_string(bundle.read(step.file)).graph for step in segments}
    counts = {name: sum(node.op_type == "QuantizeLinear" for node in graph.node) for name, graph in graphs.items()}
    assert counts["text"] == 4
    assert counts["query"] > 0
    assert counts["audio"] == counts["face"] == counts["score"] == 0
