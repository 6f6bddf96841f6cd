"""Segments to ONNX, each held against PyTorch at several sizes before anything else is made from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch

from psamf_edge.compile.export import ExportError, quiet
from psamf_edge.compile.export.cross_modal_op import DOMAIN, attach_body, translation_table
from psamf_edge.compile.export.preflight import load
from psamf_edge.compile.export.segments import AUDIO_STEPS, FACE_STEPS, FRAMES, HOPS, SUBSETS, TOKENS, ExportSegment
from psamf_edge.compile.precisions import EIGHT_BITS
from psamf_edge.plan import Tensors

OPSET = 20  # the first with Gelu as one operator (text 4 % faster on a CPU), and the last that TensorRT 10.3 reads
# all unlike, so that no two axes can be taken for one
EXAMPLE_SIZES = {TOKENS: 7, HOPS: 41, FRAMES: 13, SUBSETS: 3, AUDIO_STEPS: 6, FACE_STEPS: 9}

# Float32 differs by the order of sums, float16 by its 11 bits. int8: MiniLM's tokens reach .99 with a scale for each
# channel and .946 with one for each tensor (ONNX Runtime 1.31), so a value between the two tells a good file from a
# broken one.
LEAST_COSINE = {"fp32": 0.99999, "fp16": 0.999, **dict.fromkeys(EIGHT_BITS, 0.97)}
Run = Callable[[Tensors], Sequence[np.ndarray]]  # a segment's inputs to its outputs, in their order


@dataclass(frozen=True)
class Parity:
    """How one output of a segment compares with PyTorch in float32, over all sizes checked."""

    segment: str
    output: str
    error: float  # greatest absolute difference
    cosine: float  # of all values together; 1 where the reference is zero throughout


def export(segment: ExportSegment) -> onnx.ModelProto:
    """One segment as an ONNX model in float32.

    Raises:
        ExportError: an axis that must be dynamic has been frozen.
    """
    inputs = random_inputs(segment, EXAMPLE_SIZES, seed=0)
    axes = [
        {axis: torch.export.Dim(size) for axis, size in enumerate(shape) if isinstance(size, str)}
        for shape in segment.shapes.values()
    ]
    with (
        quiet("torch.onnx"),
        warnings.catch_warnings(),
    ):  # of missing packages and passes; what matters is checked below
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            segment.exported or segment.module,
            tuple(torch.from_numpy(value) for value in inputs.values()),
            input_names=list(segment.plan.inputs),
            output_names=list(segment.plan.outputs),
            dynamic_shapes=axes,
            opset_version=OPSET,
            custom_translation_table=translation_table(),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    for node in model.graph.node:  # where each node came from in the source: half of a small file
        del node.metadata_props[:]
    attach_body(model, OPSET)
    beside = {name for node in model.graph.node if node.domain == DOMAIN for name in (*node.input, *node.output)}
    kept = [value for value in model.graph.value_info if value.name in beside]  # the cut needs the names of their axes
    del model.graph.value_info[:]  # inferred again by every reader, and in the way of rewriting weights
    model.graph.value_info.extend(kept)
    check_axes(model, segment)
    return model


def check_axes(model: onnx.ModelProto, segment: ExportSegment) -> None:
    """Raise ExportError unless the model's inputs have the segment's names, fixed sizes and dynamic axes."""
    found = {
        value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
    }
    if found != segment.shapes:
        raise ExportError(
            f"The segment {segment.plan.name} was exported with inputs {found} in place of {segment.shapes}."
        )


def check_parity(model: onnx.ModelProto, segment: ExportSegment) -> list[Parity]:
    """Run ONNX Runtime beside PyTorch: see `compare`."""
    session = load(model, segment.plan.file)
    return compare(lambda inputs: session.run(list(segment.plan.outputs), inputs), segment)


def compare(run: Run, segment: ExportSegment, given: Sequence[Tensors] | None = None) -> list[Parity]:
    """Hold a segment, run in whatever way, against PyTorch at four sizes, least and greatest among them: no frozen axis
    can hide from that.

    given: inputs to compare on in place of these random ones.

    Raises:
        ExportError: it does not run at some size, or an output has another shape there or is not finite.
    """
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in segment.plan.outputs}
    if given is None:
        given = [random_inputs(segment, sizes, seed) for seed, sizes in enumerate(_checked_sizes(segment))]
    for inputs in given:
        sizes = {name: value.shape for name, value in inputs.items()}
        wanted = reference(segment, inputs)
        try:
            got = run(inputs)
        except Exception as error:  # onnxruntime raises many private classes
            raise ExportError(f"The segment {segment.plan.name} does not run at {sizes}: {error}") from error
        for name, ours, theirs in zip(segment.plan.outputs, got, wanted, strict=True):
            if ours.shape != theirs.shape or not np.isfinite(ours).all():
                raise ExportError(
                    f"The output {name} has shape {ours.shape} at {sizes}, where PyTorch gives {theirs.shape}, or is"
                    " not finite."
                )
            pairs[name].append((ours.ravel().astype(float), theirs.ravel().astype(float)))
    return [
        _compare(segment.plan.name, name, *(np.concatenate(side) for side in zip(*both, strict=True)))
        for name, both in pairs.items()
    ]


def check_limits(parities: list[Parity], precision: str) -> None:
    """Raise ExportError if an output is further from PyTorch than the precision explains."""
    for sentence in beyond_limits(parities, precision):
        raise ExportError(f"{sentence}. Use --precision fp32, and report the model.")


def beyond_limits(parities: Sequence[Parity], precision: str) -> list[str]:
    """A sentence for each output that is further from PyTorch than the precision explains."""
    limit = LEAST_COSINE[precision]
    return [
        f"The output {parity.output} of segment {parity.segment} has a cosine of {parity.cosine:.5f} to PyTorch"
        f" in {precision}; at least {limit} is expected"
        for parity in parities
        if not parity.cosine >= limit
    ]


def reference(segment: ExportSegment, inputs: Tensors) -> tuple[np.ndarray, ...]:
    """What PyTorch gives for the same inputs, one array for each output."""
    with torch.inference_mode():
        outputs = segment.module(*(torch.from_numpy(value) for value in inputs.values()))
    return tuple(value.numpy() for value in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs))


def random_inputs(segment: ExportSegment, sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """Inputs of the given sizes: token ids, normal features, masks with padding at their end, all kinds of subsets."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, shape in segment.shapes.items():
        size = tuple(sizes.get(axis, axis) for axis in shape)
        if name in segment.integers:
            inputs[name] = rng.integers(0, segment.integers[name], size)
        elif name.endswith("_mask"):
            inputs[name] = np.broadcast_to(np.arange(size[1]) < max(1, 0.8 * size[1]), size).astype(np.float32)
        elif name == "present":
            subsets = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1]], np.float32)
            inputs[name] = subsets[None, : size[1]]
        else:
            inputs[name] = rng.standard_normal(size, np.float32)
    return inputs


def _checked_sizes(segment: ExportSegment) -> list[dict[str, int]]:
    """One of everything, three of everything, the usual and the greatest sizes."""
    least, usual, greatest = ({axis: sizes[i] for axis, sizes in segment.ranges.items()} for i in range(3))
    return [least, {axis: min(3, size) for axis, size in greatest.items()}, usual, greatest]


def _compare(segment: str, output: str, ours: np.ndarray, theirs: np.ndarray) -> Parity:
    norms = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    cosine = float(ours @ theirs) / norms if norms > 0 else 1.0
    return Parity(segment, output, float(np.abs(ours - theirs).max()), cosine)
