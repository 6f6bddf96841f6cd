"""TFLite operators to ONNX (opset 17), for the two face models of MediaPipe.

Images are NCHW inside the ONNX graph, NHWC in TFLite: weights are permuted once, at conversion. Where a layout can be
seen from outside (RESHAPE, a 4-D graph output) a Transpose restores TFLite's; the graph input becomes NCHW.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

from psamf_edge.compile.face_models.tflite_graph import Graph, Operator, read_graph
from psamf_edge.errors import InputError

OPSET = 17
IR_VERSION = 8  # the IR that came with opset 17; newer ones shut out older ONNX Runtimes for nothing
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_BLOCK = 16  # channels that ONNX Runtime's blocked layout keeps together, at most


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TFLite's SAME padding (before, after) along one axis: an odd element goes after; PyTorch's rule is symmetric."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def convert(data: bytes, name: str) -> bytes:
    """Convert one TFLite model; weights keep their precision (fp16 ones through a Cast that runtimes fold at load).

    Args:
        data: the TFLite file.
        name: what to call it in errors and in the ONNX graph.

    Raises:
        InputError: not a TFLite file, or it holds an operator, activation or shape that is not supported.
    """
    return _Converter(read_graph(data, name), name).model().SerializeToString()


class _Converter:
    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.transposed: dict[int, str] = {}
        self.emitters: dict[str, Callable[[Operator], None]] = {
            "ADD": self._add,
            "CONCATENATION": self._concatenation,
            "CONV_2D": self._conv,
            "DEPTHWISE_CONV_2D": self._depthwise_conv,
            "MAX_POOL_2D": self._max_pool,
            "PAD": self._pad,
            "PRELU": self._prelu,
            "RELU": self._relu,
            "RESHAPE": self._reshape,
        }

    def model(self) -> onnx.ModelProto:
        graph = self.graph
        for operator in graph.operators:
            if operator.kind not in self.emitters:
                raise InputError(
                    f"{self.name} holds the TFLite operator {operator.kind}; "
                    f"only {', '.join(sorted(self.emitters))} and DEQUANTIZE of constants can be converted."
                )
            self.emitters[operator.kind](operator)
        outputs = [self._visible(tensor) for tensor in graph.outputs]
        onnx_graph = helper.make_graph(
            self.nodes,
            self.name,
            [_value(_tensor(i), _nchw_shape(graph.shapes[i])) for i in graph.inputs],
            [_value(value, graph.shapes[i]) for value, i in zip(outputs, graph.outputs, strict=True)],
            list(self.initializers.values()),
        )
        self._name_ports(onnx_graph)
        model = helper.make_model(
            onnx_graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="psamf-edge",
        )
        onnx.checker.check_model(model, full_check=True)
        return model

    def _name_ports(self, onnx_graph: onnx.GraphProto) -> None:
        """Give inputs and outputs the names they bear in the TFLite file; inner tensors keep short ones."""
        renamed = {}
        ports = [*zip(onnx_graph.input, self.graph.inputs, strict=True)]
        ports += [*zip(onnx_graph.output, self.graph.outputs, strict=True)]
        for value, tensor in ports:
            renamed[value.name] = value.name = self.graph.names[tensor]
        for node in onnx_graph.node:
            node.input[:] = [renamed.get(n, n) for n in node.input]
            node.output[:] = [renamed.get(n, n) for n in node.output]

    # Plumbing

    def _emit(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _finish(self, operator: Operator, kind: str, inputs: list[str], **attributes: object) -> None:
        """Emit the node that makes the operator's output, then its fused activation where it has one."""
        output = _tensor(operator.outputs[0])
        activation = operator.options.FusedActivationFunction() if operator.options is not None else 0
        if activation == tflite.ActivationFunctionType.NONE:
            self._emit(kind, inputs, output, **attributes)
        elif activation == tflite.ActivationFunctionType.RELU:
            self._emit("Relu", [self._emit(kind, inputs, f"{output}_linear", **attributes)], output)
        else:
            raise InputError(
                f"{self.name}: {operator.kind} has the fused activation {activation}; "
                "only none and RELU can be converted."
            )

    def _initializer(self, name: str, array: np.ndarray) -> str:
        """Store a constant; fp16 is stored as it is and cast, which halves the file and is folded away at load."""
        if name in self.initializers:
            return name if array.dtype != np.float16 else f"{name}_f32"
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        if array.dtype != np.float16:
            return name
        return self._emit("Cast", [name], f"{name}_f32", to=TensorProto.FLOAT)

    def _weight(self, tensor: int, permutation: tuple[int, ...] | None = None) -> str:
        array = self._constant(tensor)
        return self._initializer(_tensor(tensor), array if permutation is None else array.transpose(permutation))

    def _constant(self, tensor: int) -> np.ndarray:
        if tensor not in self.graph.constants:
            raise InputError(
                f"{self.name}: tensor {self.graph.names[tensor]} is computed where only a constant can be converted."
            )
        return self.graph.constants[tensor]

    def _visible(self, tensor: int) -> str:
        """The tensor in TFLite's layout."""
        if len(self.graph.shapes[tensor]) != 4:
            return _tensor(tensor)
        if tensor not in self.transposed:
            name = f"{_tensor(tensor)}_nhwc"
            self.transposed[tensor] = self._emit("Transpose", [_tensor(tensor)], name, perm=_TO_NHWC)
        return self.transposed[tensor]

    def _spatial_pads(self, operator: Operator, kernel: tuple[int, int], dilations: tuple[int, int]) -> list[int]:
        if operator.options.Padding() == tflite.Padding.VALID:
            return [0, 0, 0, 0]
        _, height, width, _ = self.graph.shapes[operator.inputs[0]]
        top, bottom = same_padding(height, kernel[0], operator.options.StrideH(), dilations[0])
        left, right = same_padding(width, kernel[1], operator.options.StrideW(), dilations[1])
        return [top, left, bottom, right]

    # Operators

    def _conv(self, operator: Operator) -> None:
        self._any_conv(operator, permutation=(0, 3, 1, 2), group=1)  # OHWI to OIHW

    def _depthwise_conv(self, operator: Operator) -> None:
        channels = self.graph.shapes[operator.inputs[0]][3]
        self._any_conv(operator, permutation=(3, 0, 1, 2), group=channels)  # 1HWO to O1HW

    def _any_conv(self, operator: Operator, permutation: tuple[int, ...], group: int) -> None:
        image, weight, *bias = operator.inputs
        options = operator.options
        kernel = self.graph.shapes[weight][1:3]
        dilations = (options.DilationHFactor(), options.DilationWFactor())
        self._finish(
            operator,
            "Conv",
            [_tensor(image), self._weight(weight, permutation), *map(self._weight, bias)],
            kernel_shape=kernel,
            strides=(options.StrideH(), options.StrideW()),
            dilations=dilations,
            pads=self._spatial_pads(operator, kernel, dilations),
            group=group,
        )

    def _max_pool(self, operator: Operator) -> None:
        options = operator.options
        kernel = (options.FilterHeight(), options.FilterWidth())
        self._finish(
            operator,
            "MaxPool",
            [_tensor(operator.inputs[0])],
            kernel_shape=kernel,
            strides=(options.StrideH(), options.StrideW()),
            pads=self._spatial_pads(operator, kernel, (1, 1)),
        )

    def _add(self, operator: Operator) -> None:
        if any(i in self.graph.constants for i in operator.inputs):
            raise InputError(f"{self.name}: ADD of a constant is not supported; only sums of two activations are.")
        self._finish(operator, "Add", [_tensor(i) for i in operator.inputs])

    def _relu(self, operator: Operator) -> None:
        self._emit("Relu", [_tensor(operator.inputs[0])], _tensor(operator.outputs[0]))

    def _prelu(self, operator: Operator) -> None:
        """a*x + max((1-a)*x, 0) where all a <= 1, else a*x + (1-a)*max(x, 0), scaled by BatchNormalization.

        ONNX Runtime keeps these in the blocked layout of its convolutions where it has one, with Relu and Add fused in;
        around PRelu, Mul and Max it reorders. Face mesh, one x86 thread: Max(x, a*x) 1.7 ms, this 1.4; with the plain
        layout of other processors 3.2 and 3.4. Scaling by depthwise convolutions gives 1.4 and 3.8.
        """
        image, slope = operator.inputs
        value, output = _tensor(image), _tensor(operator.outputs[0])
        slopes = self._constant(slope).reshape(-1).astype(np.float32)  # (1, 1, C) to (C,)
        if slopes.max() <= 1:
            rest = self._scaled(value, 1 - slopes, f"{output}_rest")
            positive = self._emit("Relu", [rest], f"{output}_positive")
        else:
            relu = self._emit("Relu", [value], f"{output}_relu")
            positive = self._scaled(relu, 1 - slopes, f"{output}_positive")
        self._emit("Add", [self._scaled(value, slopes, f"{output}_scaled"), positive], output)

    def _scaled(self, value: str, scales: np.ndarray, output: str) -> str:
        """Channels times scales (C,)."""
        count = len(scales)
        zeros = self._initializer(f"zeros_{count}", np.zeros(count, np.float32))
        ones = self._initializer(f"ones_{count}", np.ones(count, np.float32))
        scale = self._initializer(f"{output}_scale", scales)
        return self._emit("BatchNormalization", [value, scale, zeros, zeros, ones], output, epsilon=0.0)

    def _pad(self, operator: Operator) -> None:
        image, paddings = operator.inputs
        if len(self.graph.shapes[image]) != 4:
            raise InputError(f"{self.name}: PAD of a tensor that is not 4-D is not supported.")
        nchw = self._constant(paddings)[list(_TO_NCHW)]  # (4, 2): before, after
        channels_only = not nchw[[0, 2, 3]].any()
        if channels_only and self.graph.shapes[image][3] % _BLOCK == 0:
            self._pad_channels(operator, *nchw[1])
            return
        pads = self._initializer(_tensor(paddings), nchw.T.reshape(-1).astype(np.int64))
        self._emit("Pad", [_tensor(image), pads], _tensor(operator.outputs[0]))

    def _pad_channels(self, operator: Operator, before: int, after: int) -> None:
        """A convolution with an identity and zeros: Pad would leave the blocked layout (see `_prelu`)."""
        image, output = operator.inputs[0], _tensor(operator.outputs[0])
        channels = self.graph.shapes[image][3]
        copies = np.pad(np.eye(channels, dtype=np.float16), ((before, after), (0, 0)))[..., None, None]  # (O, C, 1, 1)
        self._emit("Conv", [_tensor(image), self._initializer(f"{output}_copies", copies)], output, kernel_shape=(1, 1))

    def _reshape(self, operator: Operator) -> None:
        shape, output = self.graph.shapes[operator.outputs[0]], _tensor(operator.outputs[0])
        if len(shape) == 4:
            raise InputError(f"{self.name}: RESHAPE to an image {shape} is not supported; only to 3 or fewer axes.")
        target = self._initializer(f"{output}_shape", np.array(shape, np.int64))
        self._emit("Reshape", [self._visible(operator.inputs[0]), target], output)

    def _concatenation(self, operator: Operator) -> None:
        axis = operator.options.Axis()
        rank = len(self.graph.shapes[operator.outputs[0]])
        axis = _TO_NCHW.index(axis % 4) if rank == 4 else axis
        self._finish(operator, "Concat", [_tensor(i) for i in operator.inputs], axis=axis)


def _tensor(index: int) -> str:
    return f"t{index}"


def _nchw_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _TO_NCHW) if len(shape) == 4 else shape


def _value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
