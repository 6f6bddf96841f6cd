"""The one place that says what each precision does to each segment."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from psamf_edge.compile.export.explicit import quantise_explicitly
from psamf_edge.compile.export.half import to_half
from psamf_edge.compile.export.images import convolve_images
from psamf_edge.compile.export.quantise import quantise
from psamf_edge.compile.export.weight_only import quantise_weights
from psamf_edge.compile.quantisation.formats import FORMATS
from psamf_edge.compile.quantisation.ranges import Activation

# Measured on one thread at MiniLM's sizes: int8 takes the text from 10 to 4 ms and 83 to 21 MB, and the fusion from 0.5
# to 0.4 ms and 8.5 to 3.1 MB. The encoders would gain less than a tenth of 0.8 and 0.2 ms, and have 0.4 and 0.2 MB.
INT8_SEGMENTS = ("text", "fusion")


def lower(
    model: onnx.ModelProto,
    segment: str,
    precision: str,
    target: str = "cpu",
    borders: Collection[str] = (),
    kept: Collection[str] = (),
    activations: Mapping[str, Activation] | None = None,
) -> onnx.ModelProto:
    """A float32 segment in the given precision.

    "fp32" and "fp16" say what computes. "int8" is, on a CPU, integers whose ranges are found as they come; on a GPU,
    like "fp8", explicit Q/DQ nodes at the products that `activations` name; "int8-weights" has integers for weights
    alone. In these last three all other arithmetic is float16.

    Inputs and outputs stay as they are, but for `borders`, which take the type that the arithmetic has. Convolutions
    take the form that suits ONNX Runtime, but not where TensorRT lays them out itself. The nodes named in `kept` stay
    one step higher: in float32, but in float16 where eight bits are for a GPU.
    """
    if precision == "fp16":
        return to_half(model, borders, kept)
    if target != "cpu":
        return to_half(lower_products(model, precision, kept, activations), borders) if precision != "fp32" else model
    if precision == "int8" and segment in INT8_SEGMENTS:
        return quantise(model, kept)
    return convolve_images(model)


def lower_products(
    model: onnx.ModelProto,
    precision: str,
    kept: Collection[str] = (),
    activations: Mapping[str, Activation] | None = None,
) -> onnx.ModelProto:
    """A float32 segment with one of EIGHT_BITS in its products, and float32 around them."""
    if precision == "int8-weights":
        return quantise_weights(model, kept)
    return quantise_explicitly(model, activations or {}, FORMATS[precision], kept)
