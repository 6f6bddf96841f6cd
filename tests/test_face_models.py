"""The TFLite to ONNX converter: against NumPy on a small hand-built model, and against LiteRT where it is installed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from psamf_edge.backends.sessions import open_session
from psamf_edge.errors import InputError

flatbuffers = pytest.importorskip("flatbuffers", reason="the converter needs the package tflite (extra: dev)")
tflite = pytest.importorskip("tflite", reason="the converter needs the package tflite (extra: dev)")
onnx = pytest.importorskip("onnx", reason="the converter needs the package onnx (extra: compile)")

from psamf_edge.compile.face_models import __main__ as program
from psamf_edge.compile.face_models.convert import convert, same_padding

WEIGHTS = Path(__file__).parents[1] / "compile" / "weights" / "default"
SAME, VALID = tflite.Padding.SAME, tflite.Padding.VALID
OPS, OPTIONS = tflite.BuiltinOperator, tflite.BuiltinOptions


# A TFLite writer


class Model:
    """Collects tensors and operators of one small model, then writes the flatbuffer."""

    def __init__(self) -> None:
        self.tensors: list[tuple[str, tuple[int, ...], int, bytes]] = []
        self.operators: list[tuple] = []

    def tensor(self, *shape: int) -> int:
        self.tensors.append((f"tensor{len(self.tensors)}", shape, tflite.TensorType.FLOAT32, b""))
        return len(self.tensors) - 1

    def constant(self, array: np.ndarray) -> int:
        types = {"float16": tflite.TensorType.FLOAT16, "float32": tflite.TensorType.FLOAT32}
        kind = types.get(array.dtype.name, tflite.TensorType.INT32)
        self.tensors.append((f"constant{len(self.tensors)}", array.shape, kind, array.tobytes()))
        return len(self.tensors) - 1

    def half(self, array: np.ndarray) -> int:
        """A constant stored in fp16 that reaches its user through DEQUANTIZE."""
        output = self.tensor(*array.shape)
        self.add(OPS.DEQUANTIZE, [self.constant(array.astype(np.float16))], output)
        return output

    def add(self, code: int, inputs: list[int], output: int, options: str | None = None, **fields: int) -> int:
        self.operators.append((code, inputs, output, options, fields))
        return output

    def write(self, inputs: list[int], outputs: list[int]) -> bytes:
        b = flatbuffers.Builder(1024)

        def table(name: str, **fields: int) -> int:
            getattr(tflite, f"{name}Start")(b)
            for field, value in fields.items():
                getattr(tflite, f"{name}Add{field}")(b, value)
            return getattr(tflite, f"{name}End")(b)

        def offsets(items: list[int]) -> int:
            b.StartVector(4, len(items), 4)
            for item in reversed(items):
                b.PrependUOffsetTRelative(item)
            return b.EndVector()

        def ints(values: list[int] | tuple[int, ...]) -> int:
            return b.CreateNumpyVector(np.array(values, np.int32))

        buffers, tensors, operators, codes = [table("Buffer")], [], [], []
        for name, shape, kind, data in self.tensors:
            if data:
                buffers.append(table("Buffer", Data=b.CreateByteVector(data)))
            index = len(buffers) - 1 if data else 0
            tensors.append(table("Tensor", Shape=ints(shape), Type=kind, Buffer=index, Name=b.CreateString(name)))
        for i, (code, used, output, options, fields) in enumerate(self.operators):
            codes.append(table("OperatorCode", DeprecatedBuiltinCode=min(code, 127), BuiltinCode=code, Version=1))
            extra = {}
            if options:
                extra = {"BuiltinOptions": table(options, **fields), "BuiltinOptionsType": getattr(OPTIONS, options)}
            operators.append(table("Operator", OpcodeIndex=i, Inputs=ints(used), Outputs=ints([output]), **extra))
        ports = {"Inputs": ints(inputs), "Outputs": ints(outputs)}
        subgraph = table("SubGraph", Tensors=offsets(tensors), Operators=offsets(operators), **ports)
        parts = {"OperatorCodes": offsets(codes), "Subgraphs": offsets([subgraph]), "Buffers": offsets(buffers)}
        b.Finish(table("Model", Version=3, **parts), file_identifier=b"TFL3")
        return bytes(b.Output())


# The same operators in NumPy, NHWC, as plain loops


def padded(x: np.ndarray, kernel: int, stride: int, fill: float) -> np.ndarray:
    """SAME: as many outputs as strides begin inside the image; one missing column is filled after it."""
    pads = [(0, 0)]
    for size in x.shape[1:3]:
        missing = max((len(range(0, size, stride)) - 1) * stride + kernel - size, 0)
        pads.append((missing // 2, missing - missing // 2))
    return np.pad(x, [*pads, (0, 0)], constant_values=fill)


def windows(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """(1, H', W', kernel, kernel, C)"""
    view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
    return view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def run(onnx_bytes: bytes, image: np.ndarray) -> list[np.ndarray]:
    """Runs a converted model on an NHWC image."""
    session = open_session(onnx_bytes, "converted")
    return session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(image.transpose(0, 3, 1, 2))})


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 128])
def test_same_padding_gives_a_window_for_each_stride_and_no_more_than_it_needs(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    outputs = (before + size + after - kernel) // stride + 1
    assert outputs == len(range(0, size, stride)) or kernel < stride  # a small kernel skips pixels and needs no padding
    assert after - before in (0, 1)
    if before + after:  # one element less would lose a window
        assert (before + size + after - 1 - kernel) // stride + 1 < outputs


@pytest.mark.parametrize("slope_limit", [1.0, 2.0])  # a > 1 needs a form of its own
def test_small_model_equals_numpy(slope_limit):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float16)  # OHWI
    bias = rng.normal(size=4).astype(np.float32)
    depthwise, depthwise_bias = rng.normal(size=(1, 3, 3, 4)).astype(np.float32), np.zeros(4, np.float32)
    slopes = np.array([-0.5, 0.0, 0.9, slope_limit], np.float32).reshape(1, 1, 4)
    paddings = np.array([[0, 0], [1, 0], [0, 2], [0, 3]], np.int32)

    model = Model()
    image, convolved = model.tensor(1, 7, 6, 3), model.tensor(1, 4, 3, 4)
    strides = {"StrideH": 2, "StrideW": 2}
    model.add(
        *(OPS.CONV_2D, [image, model.half(weight), model.constant(bias)], convolved, "Conv2DOptions"),
        **(strides | {"Padding": SAME, "FusedActivationFunction": tflite.ActivationFunctionType.RELU}),
    )
    pooled = model.add(
        *(OPS.MAX_POOL_2D, [convolved], model.tensor(1, 2, 2, 4), "Pool2DOptions"),
        **(strides | {"Padding": SAME, "FilterHeight": 2, "FilterWidth": 2}),
    )
    deep = model.add(
        *(OPS.DEPTHWISE_CONV_2D, [convolved, model.constant(depthwise), model.constant(depthwise_bias)]),
        *(model.tensor(1, 2, 2, 4), "DepthwiseConv2DOptions"),
        **(strides | {"Padding": SAME, "DepthMultiplier": 1}),
    )
    total = model.add(OPS.ADD, [pooled, deep], model.tensor(1, 2, 2, 4), "AddOptions")
    bent = model.add(OPS.PRELU, [total, model.constant(slopes)], model.tensor(1, 2, 2, 4))
    wide = model.add(OPS.PAD, [bent, model.constant(paddings)], model.tensor(1, 3, 4, 7))
    positive = model.add(OPS.RELU, [wide], model.tensor(1, 3, 4, 7))
    both = model.add(OPS.CONCATENATION, [wide, positive], model.tensor(1, 3, 4, 14), "ConcatenationOptions", Axis=3)
    flat = model.add(OPS.RESHAPE, [both], model.tensor(1, 168))
    data = model.write([image], [flat, both])

    x = rng.normal(size=(1, 7, 6, 3)).astype(np.float32)
    y = np.einsum("nhwijc,oijc->nhwo", windows(padded(x, 3, 2, 0), 3, 2), weight.astype(np.float32)) + bias
    y = np.maximum(y, 0)
    pool = windows(padded(y, 2, 2, -np.inf), 2, 2).max(axis=(3, 4))
    y = pool + np.einsum("nhwijc,ijc->nhwc", windows(padded(y, 3, 2, 0), 3, 2), depthwise[0])
    y = np.pad(np.where(y >= 0, y, y * slopes), paddings)
    y = np.concatenate([y, np.maximum(y, 0)], axis=3)
    onnx_bytes = convert(data, "small")
    flat_output, both_output = run(onnx_bytes, x)
    np.testing.assert_allclose(both_output, y, atol=1e-5)  # sums of 27 products in float32, in another order
    np.testing.assert_array_equal(flat_output, both_output.reshape(1, -1))
    kinds = {node.op_type for node in onnx.load_from_string(onnx_bytes).graph.node}
    assert "BatchNormalization" in kinds
    assert not kinds & {"PRelu", "Mul", "Max"}  # ONNX Runtime would leave its blocked layout for them


@pytest.mark.parametrize(("channels", "before", "after"), [(16, 0, 16), (32, 3, 1), (6, 0, 2)])
def test_padded_channels_equal_numpy(channels, before, after):
    """By a convolution where the channels fill blocks of ONNX Runtime's layout."""
    model = Model()
    image, wide = model.tensor(1, 3, 2, channels), model.tensor(1, 3, 2, before + channels + after)
    paddings = np.array([[0, 0], [0, 0], [0, 0], [before, after]], np.int32)
    model.add(OPS.PAD, [image, model.constant(paddings)], wide)
    onnx_bytes = convert(model.write([image], [wide]), "wide")
    x = np.random.default_rng(0).normal(size=(1, 3, 2, channels)).astype(np.float32)
    np.testing.assert_array_equal(run(onnx_bytes, x)[0], np.pad(x, paddings))
    kinds = {node.op_type for node in onnx.load_from_string(onnx_bytes).graph.node}
    assert ("Conv" in kinds) == (channels % 16 == 0)


def test_unknown_operator_is_named():
    model = Model()
    image = model.tensor(1, 2, 2, 1)
    data = model.write([image], [model.add(OPS.TANH, [image], model.tensor(1, 2, 2, 1))])
    with pytest.raises(InputError, match="TANH"):
        convert(data, "unknown")


def test_unknown_activation_is_refused():
    model = Model()
    image = model.tensor(1, 2, 2, 1)
    total = model.tensor(1, 2, 2, 1)
    model.add(OPS.ADD, [image, image], total, "AddOptions", FusedActivationFunction=tflite.ActivationFunctionType.TANH)
    with pytest.raises(InputError, match="fused activation"):
        convert(model.write([image], [total]), "unknown")


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04" + b"\0" * 100, b"\x20\0\0\0TFL3", b"\x20\0\0\0TFL3" + b"\xff" * 64]
)
def test_junk_is_an_input_error(data):
    with pytest.raises(InputError, match="junk"):
        convert(data, "junk")


def test_truncated_file_is_an_input_error():
    model = Model()
    image = model.tensor(1, 2, 2, 1)
    data = model.write([image], [model.add(OPS.RELU, [image], model.tensor(1, 2, 2, 1))])
    for length in range(8, len(data) // 2, 4):
        with pytest.raises(InputError, match="cut short"):
            convert(data[:length], "half")


def test_program_refuses_a_model_with_another_hash(tmp_path):
    for member, _ in program.SOURCES.values():
        (tmp_path / Path(member).name).write_bytes(b"\0" * 100)
    result = CliRunner().invoke(program.main, [str(tmp_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 4
    assert "SHA-256" in result.output


def test_program_names_the_missing_file(tmp_path):
    result = CliRunner().invoke(program.main, [str(tmp_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "face_detection_short_range.tflite" in result.output


def test_a_full_disk_leaves_the_model_that_was_there(tmp_path, monkeypatch):
    def half(path, data):
        with open(path, "wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    (tmp_path / "face_mesh.onnx").write_bytes(b"what was there")
    monkeypatch.setattr(program, "SOURCES", {"face_mesh.onnx": ("face.tflite", hashlib.sha256(b"a model").hexdigest())})
    monkeypatch.setattr(program, "convert", lambda data, name: b"another")
    (tmp_path / "face.tflite").write_bytes(b"a model")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        result = CliRunner().invoke(program.main, [str(tmp_path), "-o", str(tmp_path)])
    assert "No space left" in str(result.exception)
    assert (tmp_path / "face_mesh.onnx").read_bytes() == b"what was there"
    assert CliRunner().invoke(program.main, [str(tmp_path), "-o", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "face_mesh.onnx").read_bytes() == b"another"


def test_notice_beside_the_shipped_models_is_the_program_s_own():
    assert (WEIGHTS / "NOTICE-mediapipe.txt").read_text(encoding="utf-8") == program.notice()


@pytest.mark.parametrize("name", program.SOURCES)
def test_shipped_model_equals_litert(name):
    """Oracle: Google's own interpreter on the original file, on noise, black, and flat blocks."""
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed (pip: ai-edge-litert)")
    source = os.environ.get("MEDIAPIPE_WHEEL")
    if not source:
        pytest.skip("MEDIAPIPE_WHEEL does not name the mediapipe 0.10.21 wheel or its unpacked folder")
    member, digest = program.SOURCES[name]
    original = program.read_source(Path(source), member)
    assert hashlib.sha256(original).hexdigest() == digest
    onnx_bytes = (WEIGHTS / name).read_bytes()
    assert convert(original, Path(name).stem) == onnx_bytes

    interpreter = litert.Interpreter(model_content=original, num_threads=1)
    interpreter.allocate_tensors()
    port = interpreter.get_input_details()[0]
    rng = np.random.default_rng(0)
    side = port["shape"][1]
    blocks = np.kron(rng.uniform(-1, 1, (1, side // 16, side // 16, 3)), np.ones((1, 16, 16, 1)))
    for image in (rng.uniform(-1, 1, port["shape"]), np.zeros(port["shape"]), blocks):
        image = image.astype(np.float32)
        interpreter.set_tensor(port["index"], image)
        interpreter.invoke()
        expected = {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
        names = [output.name for output in open_session(onnx_bytes, name).get_outputs()]
        for output, got in zip(names, run(onnx_bytes, image), strict=True):
            # float32 sums in another order, through 20 layers: measured up to 1e-6 of the largest output.
            np.testing.assert_allclose(got, expected[output], atol=5e-6 * np.abs(expected[output]).max() + 5e-6)
