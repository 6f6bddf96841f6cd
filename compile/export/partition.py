"""A graph cut at its kernel nodes: segments for an engine builder, with launches of our own kernels between them.

Nodes run as late as the cuts allow, so that what crosses a cut is what the kernels pass on, and not what could be made
from it. Only tensors of numbers cross. Shape tensors never do: each segment computes its own, from the axes of the
tensors that it has anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, shape_inference

from psamf_edge.bundle import PlanKernel, PlanSegment
from psamf_edge.compile.export import ExportError
from psamf_edge.compile.export.cross_modal_op import DOMAIN, INPUTS, OP

KERNEL_NODES = {(DOMAIN, OP): ("cross_modal_attention", INPUTS, ("contexts",))}  # to kernel, its inputs, its outputs
CROSSING = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32)  # what a segment may hand to another


@dataclass(frozen=True)
class SegmentPart:
    """One segment of the plan and its graph."""

    plan: PlanSegment
    model: onnx.ModelProto


@dataclass(frozen=True)
class KernelPart:
    """One launch of the plan and its packed weights, (2, P)."""

    plan: PlanKernel
    weights: np.ndarray


Part = SegmentPart | KernelPart


def has_kernel_nodes(model: onnx.ModelProto) -> bool:
    """Whether there is anything to cut at."""
    return any(_is_kernel(node) for node in model.graph.node)


def partition(model: onnx.ModelProto, names: Sequence[str], axes: Collection[str]) -> list[Part]:
    """Cut a graph at each of KERNEL_NODES.

    Args:
        model: in float32, with the shapes of the tensors that touch such a node among its values.
        names: of the segments, in the order in which they run.
        axes: the names of all dynamic axes.

    Returns:
        Segments and kernels in the order in which they run. Inputs and outputs of the whole keep their names; a tensor
        between a segment and a kernel has the name that the kernel gives it, with a number where that is taken.

    Raises:
        ExportError: the graph cannot be cut into these segments; the message names the node or tensor.
    """
    model = _copy(model)
    for node in model.graph.node:
        if any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in node.attribute):
            raise ExportError(
                f"The graph cannot be cut: the node {node.name} ({node.op_type}) holds a graph of its own, whose"
                " tensors could be on both sides. Write the model without conditions and loops."
            )
    _name_ports(model)
    graph = _Graph(model)
    levels = _levels(graph)
    depth = max(levels, default=0)
    order = [[i for i, level in enumerate(levels) if level == at] for at in range(depth + 1)]
    filled = [at for at in range(depth + 1) if any(not _is_kernel(graph.nodes[i]) for i in order[at])]
    if not has_kernel_nodes(model) or len(filled) != len(names):
        raise ExportError(
            f"The graph falls into {len(filled)} segments around {sum(map(_is_kernel, graph.nodes))} kernel nodes; it"
            f" was to be cut at one or more of {', '.join(op for _, op in KERNEL_NODES)} into {', '.join(names)}."
        )
    cut = {at: _Segment(graph, [i for i in order[at] if not _is_kernel(graph.nodes[i])]) for at in filled}
    wanted = graph.outputs | {name for segment in cut.values() for name in segment.inputs}
    wanted |= {name for i, node in enumerate(graph.nodes) if _is_kernel(node) for name in node.input}
    parts: list[Part] = []
    for at in range(depth + 1):
        if at in cut:
            parts.append(cut[at].build(names[filled.index(at)], wanted, axes))
        parts += [_kernel(graph, i) for i in order[at] if _is_kernel(graph.nodes[i])]
    return parts


def _copy(message: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(message)
    return copy


def _is_kernel(node: NodeProto) -> bool:
    return (node.domain, node.op_type) in KERNEL_NODES


def _name_ports(model: onnx.ModelProto) -> None:
    """Give what a kernel reads and writes the kernel's own names, but for inputs and outputs of the whole."""
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)} | {weight.name for weight in graph.initializer}
    taken = fixed | {name for node in graph.node for name in node.output}
    for kernel in filter(_is_kernel, graph.node):
        _, inputs, outputs = KERNEL_NODES[kernel.domain, kernel.op_type]
        for old, port in zip((*kernel.input, *kernel.output), (*inputs, *outputs), strict=True):
            if old in fixed:
                continue
            candidates = (port, *(f"{port}_{number}" for number in range(2, len(taken) + 3)))
            new = next(name for name in candidates if name not in taken)
            for node in graph.node:
                node.input[:] = [new if name == old else name for name in node.input]
                node.output[:] = [new if name == old else name for name in node.output]
            for value in graph.value_info:
                value.name = new if value.name == old else value.name
            taken.add(new)
            fixed.add(new)


def _inferred(model: onnx.ModelProto) -> dict[str, ValueInfoProto]:
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}


class _Graph:
    """What the cut looks up: nodes, who makes a tensor, and every tensor's type and shape."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)  # in topological order
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.weights = {weight.name: weight for weight in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = {value.name for value in model.graph.output}
        self.values = _inferred(model)
        for kernel in filter(_is_kernel, self.nodes):  # what follows a kernel is known once its output is
            query, contexts = kernel.input[0], kernel.output[0]
            if shape := self.shape(query):
                kind = self.values[query].type.tensor_type.elem_type
                kept = [value for value in model.graph.value_info if value.name != contexts]
                del model.graph.value_info[:]
                model.graph.value_info.extend([*kept, helper.make_tensor_value_info(contexts, kind, [2, *shape])])
                self.values = _inferred(model)

    def shape(self, name: str) -> list[int | str] | None:
        """Sizes and axis names; "" for an axis that nothing is known of, None for a tensor of unknown rank."""
        value = self.values.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return [dim.dim_param or dim.dim_value or "" for dim in value.type.tensor_type.shape.dim]

    def shape_chain(self, name: str) -> set[int] | None:
        """The nodes that make a tensor from shapes and constants alone; None if it depends on any tensor's numbers."""
        chain: set[int] = set()
        pending = [name]
        while pending:
            current = pending.pop()
            if not current or current in self.weights:
                continue
            i = self.maker.get(current)
            if i is None or _is_kernel(self.nodes[i]):
                return None
            if i not in chain:
                chain.add(i)
                if self.nodes[i].op_type != "Shape":  # what a Shape reads is a tensor of numbers, and not read as such
                    pending += self.nodes[i].input
        return chain


def _levels(graph: _Graph) -> list[int]:
    """Of each node the segment that it belongs to, counted from 0; of a kernel node the segment that it follows."""
    needed: dict[
        str, int
    ] = {}  # the first segment that reads a tensor; the last segment is 0, those before it negative
    levels = [0] * len(graph.nodes)
    for i in reversed(range(len(graph.nodes))):
        node = graph.nodes[i]
        levels[i] = min((needed.get(name, 0) for name in node.output), default=0) - _is_kernel(node)
        for name in node.input:
            needed[name] = min(needed.get(name, 0), levels[i])
    first = min(levels, default=0)
    return [level - first for level in levels]


def _kernel(graph: _Graph, index: int) -> KernelPart:
    node = graph.nodes[index]
    kernel, inputs, _ = KERNEL_NODES[node.domain, node.op_type]
    *tensors, weights = node.input
    if weights not in graph.weights:
        raise ExportError(
            f"The graph cannot be cut at {node.name}: its {inputs[-1]} are computed by the graph, and a kernel reads"
            " them from a file. Fold them into a constant first."
        )
    constant = [name for name in tensors if name in graph.weights]
    if constant:
        raise ExportError(
            f"The graph cannot be cut at {node.name}: {', '.join(constant)} is a constant; only its {inputs[-1]}"
            " may be one."
        )
    kernels = [i for i, other in enumerate(graph.nodes) if _is_kernel(other)]
    name = kernel if len(kernels) == 1 else f"{kernel}_{kernels.index(index) + 1}"
    plan = PlanKernel(name, kernel, tuple(tensors), tuple(node.output), weights=f"{name}.npy")
    return KernelPart(plan, numpy_helper.to_array(graph.weights[weights]))


class _Segment:
    """The nodes of one segment, with those that it has to compute again."""

    def __init__(self, graph: _Graph, own: list[int]) -> None:
        self.graph = graph
        self.own = {name for i in own for name in graph.nodes[i].output}
        again = [graph.shape_chain(name) or set() for name in self._foreign(own, self.own)]
        self.indices = sorted({*own, *(i for chain in again for i in chain)})
        made = {name for i in self.indices for name in graph.nodes[i].output}
        measuring = [i for i in self.indices if graph.nodes[i].op_type == "Shape"]
        numbers = self._foreign([i for i in self.indices if i not in measuring], made)
        self.shapes: dict[int, list[NodeProto]] = {}  # what takes the place of a Shape of a tensor that is not here
        only_measured = []
        for i in measuring:
            (source,) = graph.nodes[i].input
            if source in made or source in numbers or source in graph.weights:
                continue
            nodes = self._shape_of_axes(graph.nodes[i], numbers)
            if nodes is None:
                only_measured.append(source)  # none of the other tensors has its axes, so it comes in as well
            else:
                self.shapes[i] = nodes
        # in the order of the whole graph's inputs, and then as they are made
        order = [*graph.inputs, *(name for node in graph.nodes for name in node.output)]
        self.inputs = sorted({*numbers, *only_measured}, key=order.index)
        for name in self.inputs:
            self._check_crossing(name)

    def _foreign(self, indices: list[int], made: set[str]) -> list[str]:
        """The tensors that these nodes read and that are neither among `made` nor constants, each once."""
        names = [name for i in indices for name in self.graph.nodes[i].input]
        return list(dict.fromkeys(x for x in names if x and x not in made and x not in self.graph.weights))

    def _check_crossing(self, name: str) -> None:
        kind = self.graph.values[name].type.tensor_type.elem_type if name in self.graph.values else 0
        if name not in self.graph.inputs and kind not in CROSSING:
            raise ExportError(
                f"The graph cannot be cut: {name} ({TensorProto.DataType.Name(kind).lower()}) is computed from data"
                " before the cut and read after it, where only float, float16 and int32 tensors may cross."
            )

    def _shape_of_axes(self, node: NodeProto, numbers: list[str]) -> list[NodeProto] | None:
        """The same shape, axis by axis from tensors that this segment reads; None if one of the axes is in none."""
        shape = self.graph.shape(node.input[0])
        if shape is None:
            return None
        bounds = {item.name: item.i for item in node.attribute}
        (result,) = node.output
        nodes, pieces = [], []
        for axis in range(len(shape))[bounds.get("start", 0) : bounds.get("end", len(shape))]:
            pieces.append(f"{result}.axis{axis}")
            if isinstance(shape[axis], int):
                nodes.append(helper.make_node("Constant", [], pieces[-1:], value_ints=[shape[axis]]))
                continue
            for name in numbers:
                found = self.graph.shape(name) or []
                if shape[axis] and shape[axis] in found:
                    at = found.index(shape[axis])
                    nodes.append(helper.make_node("Shape", [name], pieces[-1:], start=at, end=at + 1))
                    break
            else:
                return None
        return [*nodes, helper.make_node("Concat", pieces, [result], axis=0)] if pieces else None

    def build(self, name: str, wanted: Collection[str], axes: Collection[str]) -> SegmentPart:
        graph, model = self.graph, self.graph.model
        nodes = [made for i in self.indices for made in self.shapes.get(i, [graph.nodes[i]])]
        outputs = [output for i in self.indices for output in graph.nodes[i].output if output in self.own & set(wanted)]
        whole = [value.name for value in model.graph.output]  # their order is the whole's, whatever made them when
        outputs.sort(key=lambda output: whole.index(output) if output in whole else -1)
        weights = list(dict.fromkeys(x for node in nodes for x in node.input if x in graph.weights))
        cut = helper.make_graph(
            nodes,
            name,
            [self._value(tensor, axes) for tensor in self.inputs],
            [self._value(tensor, axes) for tensor in outputs],
            [graph.weights[weight] for weight in weights],
        )
        kernels = {domain for domain, _ in KERNEL_NODES}
        made = helper.make_model(
            cut,
            opset_imports=[entry for entry in model.opset_import if entry.domain not in kernels],
            ir_version=model.ir_version,
            functions=[function for function in model.functions if function.domain not in kernels],
        )
        onnx.checker.check_model(made, full_check=True)
        return SegmentPart(PlanSegment(name, f"{name}.onnx", tuple(self.inputs), tuple(outputs)), made)

    def _value(self, name: str, axes: Collection[str]) -> ValueInfoProto:
        shape = self.graph.shape(name)
        lost = [axis for axis in shape or [] if isinstance(axis, str) and axis not in axes]
        if shape is None or lost:
            raise ExportError(
                f"The graph cannot be cut at {name}: its shape {shape} has axes other than {', '.join(axes)}, so"
                " that no engine could be given their sizes. Name its axes among the values of the graph."
            )
        return self.graph.values[name]
