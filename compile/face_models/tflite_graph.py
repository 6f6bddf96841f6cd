"""Reads a TFLite flatbuffer into plain Python: operators in order, tensor shapes, constants."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import tflite

from psamf_edge.errors import InputError

_IDENTIFIER = b"TFL3"  # bytes 4..8 of every TFLite flatbuffer (schema.fbs, file_identifier)
_DTYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}
_KIND_NAMES = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}


@dataclass(frozen=True)
class Operator:
    """One TFLite operator. `options` is the schema's own table (Conv2DOptions, ...), None where there is none."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: object | None


@dataclass(frozen=True)
class Graph:
    """The main subgraph. Tensors are numbered as in the file; shapes are TFLite's (images are NHWC)."""

    operators: list[Operator]
    names: dict[int, str]
    shapes: dict[int, tuple[int, ...]]
    constants: dict[int, np.ndarray]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_graph(data: bytes, name: str) -> Graph:
    """Parse one TFLite model.

    fp16 weights reach their users through DEQUANTIZE; those are folded here, so that a constant is a constant.

    Raises:
        InputError: not a TFLite file, cut short, more than one subgraph, or a constant of a type unknown here.
    """
    if data[4:8] != _IDENTIFIER:
        raise InputError(f"{name} is not a TFLite model (no TFL3 mark); give the file from the mediapipe wheel.")
    try:
        return _read(data, name)
    except struct.error as error:
        raise InputError(f"{name} is cut short ({error}); fetch the mediapipe wheel again.") from error


def _read(data: bytes, name: str) -> Graph:
    model = tflite.Model.GetRootAsModel(data, 0)
    if model.SubgraphsLength() != 1:
        raise InputError(f"{name} has {model.SubgraphsLength()} subgraphs; only models with one can be converted.")
    subgraph = model.Subgraphs(0)
    tensors = [subgraph.Tensors(i) for i in range(subgraph.TensorsLength())]
    graph = Graph(
        operators=[],
        names={i: tensor.Name().decode() for i, tensor in enumerate(tensors)},
        shapes={i: _ints(tensor.ShapeAsNumpy()) for i, tensor in enumerate(tensors)},
        constants={},
        inputs=_ints(subgraph.InputsAsNumpy()),
        outputs=_ints(subgraph.OutputsAsNumpy()),
    )
    for i, tensor in enumerate(tensors):
        buffer = model.Buffers(tensor.Buffer())
        if buffer.DataLength():
            graph.constants[i] = _constant(buffer, tensor, name).reshape(graph.shapes[i])
    for i in range(subgraph.OperatorsLength()):
        operator = _operator(model, subgraph.Operators(i))
        if operator.kind == "DEQUANTIZE" and operator.inputs[0] in graph.constants:
            graph.constants[operator.outputs[0]] = graph.constants[operator.inputs[0]]
        else:
            graph.operators.append(operator)
    return graph


def _operator(model: tflite.Model, operator: tflite.Operator) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # Files older than schema 3a hold the code in the narrow field, newer ones in the wide one; the other is 0.
    kind = _KIND_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    return Operator(kind, _ints(operator.InputsAsNumpy()), _ints(operator.OutputsAsNumpy()), _options(operator))


def _options(operator: tflite.Operator) -> object | None:
    table = operator.BuiltinOptions()
    if table is None:
        return None
    by_type = {
        tflite.BuiltinOptions.Conv2DOptions: tflite.Conv2DOptions,
        tflite.BuiltinOptions.DepthwiseConv2DOptions: tflite.DepthwiseConv2DOptions,
        tflite.BuiltinOptions.Pool2DOptions: tflite.Pool2DOptions,
        tflite.BuiltinOptions.AddOptions: tflite.AddOptions,
        tflite.BuiltinOptions.ConcatenationOptions: tflite.ConcatenationOptions,
    }
    schema = by_type.get(operator.BuiltinOptionsType())
    if schema is None:
        return None
    options = schema()
    options.Init(table.Bytes, table.Pos)
    return options


def _constant(buffer: tflite.Buffer, tensor: tflite.Tensor, name: str) -> np.ndarray:
    dtype = _DTYPES.get(tensor.Type())
    if dtype is None:
        raise InputError(
            f"{name}: constant {tensor.Name().decode()} has TFLite type {tensor.Type()}; "
            "only float32, float16 and int32 can be converted."
        )
    return np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype)


def _ints(values: np.ndarray | int) -> tuple[int, ...]:
    return tuple(int(v) for v in np.atleast_1d(values)) if not isinstance(values, int) else ()
