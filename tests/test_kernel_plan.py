"""The plan with the kernel between its segments: the real kernel text on the host, ONNX Runtime for the graphs, and
PyTorch to compare with. That every segment builds is shown by TensorRT-RTX, which needs no GPU for it.
"""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from kernel_student import KernelStudent

from psamf_edge.backends.sessions import open_session
from psamf_edge.bundle import PlanKernel, PlanSegment
from psamf_edge.compile.command import compile_bundle
from psamf_edge.compile.export.half import to_half
from psamf_edge.compile.export.onnx_export import check_limits, compare, random_inputs, reference
from psamf_edge.compile.export.partition import KernelPart, SegmentPart, partition
from psamf_edge.compile.export.parts import PartsRunner, kernel_tensors, lower_part
from psamf_edge.compile.export.precision import lower
from psamf_edge.errors import IntegrityError, MissingDependencyError, UsageError
from psamf_edge.kernels.cross_modal_attention import host
from psamf_edge.plan import Features, check_plan, presence_rows, score
from psamf_edge.result import MODALITIES

SUBSETS = [subset for subset in product((True, False), repeat=3) if any(subset)]
SIZES = [(1, 1, 1), (7, 41, 13), (50, 1000, 100), (128, 3000, 300)]  # tokens, hops, frames: one, odd, usual, greatest


@pytest.fixture(scope="module")
def made(kernel_student: KernelStudent) -> KernelStudent:
    return kernel_student


@pytest.fixture(scope="module")
def fusion(made: KernelStudent) -> SimpleNamespace:
    """The fusion's segment, its whole graph, and the parts that the cut makes of it."""
    segment = made.segments[-1]
    model = made.models["fusion"]
    return SimpleNamespace(segment=segment, model=model, parts=partition(model, ("query", "score"), segment.ranges))


def on_the_host(part: KernelPart, inputs: list[np.ndarray]) -> np.ndarray:
    """The kernel's own text, compiled for this machine."""
    *floats, lengths = inputs
    try:
        return host.run(*(x.astype(part.weights.dtype) for x in floats), lengths, part.weights)
    except MissingDependencyError as error:
        pytest.skip(str(error))


def test_the_cut_has_the_tensors_that_the_runtime_expects(fusion) -> None:
    query, kernel, last = (part.plan for part in fusion.parts)
    assert query == PlanSegment(
        "query",
        "query.onnx",
        tuple(name for name in fusion.segment.plan.inputs if name not in ("audio_steps", "face_steps")),
        ("query", "lengths"),
    )
    assert kernel == PlanKernel(
        "cross_modal_attention",
        "cross_modal_attention",
        ("query", "audio_steps", "face_steps", "lengths"),
        ("contexts",),
        "cross_modal_attention.npy",
    )
    assert last == PlanSegment("score", "score.onnx", ("query", "contexts"), ("score", "log_scale"))
    assert kernel_tensors(fusion.parts) == {"query", "audio_steps", "face_steps", "lengths", "contexts"}


@pytest.fixture(scope="module")
def whole_plan(made: KernelStudent, fusion, tiny_bundle) -> SimpleNamespace:
    """What a bundle says of the whole plan, and a way to run its steps: ONNX Runtime, and the kernel on the host."""
    encoders = [SegmentPart(each.plan, made.models[each.plan.name]) for each in made.segments[:-1]]
    parts = {part.plan.name: part for part in (*encoders, *fusion.parts)}
    runners = {name: PartsRunner([part], part.plan.outputs, on_the_host) for name, part in parts.items()}

    def run_step(step: PlanSegment | PlanKernel, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert tuple(inputs) == step.inputs
        return dict(zip(step.outputs, runners[step.name].run(inputs), strict=True))

    shapes = replace(tiny_bundle.shapes, width=64)
    plan = tuple(part.plan for part in parts.values())
    return SimpleNamespace(path="whole", plan=plan, shapes=shapes, run_step=run_step)


@pytest.mark.parametrize("present", SUBSETS)
def test_a_plan_with_the_kernel_scores_like_pytorch(made: KernelStudent, whole_plan, present: tuple) -> None:
    """From features to score and contributions, through `plan.score`, in float32."""
    check_plan(whole_plan)
    shapes, rng = whole_plan.shapes, np.random.default_rng(sum(present))
    names = tuple(name for name, there in zip(MODALITIES, present, strict=True) if there)
    rows = torch.from_numpy(presence_rows(names))[None]
    for sizes in SIZES:
        values = [
            rng.integers(0, shapes.vocabulary, sizes[0]),
            rng.standard_normal((sizes[1], shapes.audio_features), np.float32),
            rng.standard_normal((sizes[2], shapes.face_features), np.float32),
        ]
        given = [value if there else None for value, there in zip(values, present, strict=True)]
        outputs = score(whole_plan, whole_plan.run_step, Features(*given))
        masks = [torch.full((1, size), float(there)) for size, there in zip(sizes, present, strict=True)]
        pairs = [(torch.from_numpy(value)[None], mask) for value, mask in zip(values, masks, strict=True)]
        with torch.inference_mode():
            wanted = made.student(*pairs[0], *pairs[1], *pairs[2], rows).score[0].clamp(-3, 3)
        # float32 sums in another order, through all layers; the scores of this student spread by about 0.1
        assert outputs.score == pytest.approx(float(wanted[0]), abs=1e-5)
        for i, name in enumerate(names if len(names) > 1 else ()):
            assert outputs.contributions[name] == pytest.approx(float(wanted[0] - wanted[i + 1]), abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64])
def test_cut_and_whole_file_equal_pytorch(fusion, size: int) -> None:
    """Every output at odd sizes: the graph with the function's body in ONNX Runtime, and the parts with the kernel."""
    segment = fusion.segment
    whole = open_session(fusion.model.SerializeToString(), "fusion")
    cut = PartsRunner(fusion.parts, segment.plan.outputs, on_the_host)
    inputs = random_inputs(segment, {axis: min(size, most) for axis, (_, _, most) in segment.ranges.items()}, seed=size)
    wanted = reference(segment, inputs)
    for got in (whole.run(list(segment.plan.outputs), inputs), cut.run(inputs)):
        for ours, theirs in zip(got, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize("precision", ["fp16", "int8-weights"])
def test_lower_precisions_stay_within_their_limits_around_the_kernel(fusion, precision: str) -> None:
    borders = kernel_tensors(fusion.parts)
    parts = [lower_part(part, precision, "rtx", borders) for part in fusion.parts]
    for part in parts:  # one type on both sides of the kernel, and in its weights
        if isinstance(part, KernelPart):
            assert part.weights.dtype == np.float16
            continue
        values = [*part.model.graph.input, *part.model.graph.output]
        kinds = {value.name: value.type.tensor_type.elem_type for value in values if value.name in borders}
        assert kinds.pop("lengths", onnx.TensorProto.INT32) == onnx.TensorProto.INT32
        assert set(kinds.values()) == {onnx.TensorProto.FLOAT16}
    check_limits(compare(PartsRunner(parts, fusion.segment.plan.outputs, on_the_host).run, fusion.segment), precision)


@pytest.mark.parametrize("precision", ["fp16", "int8-weights"])
def test_the_whole_file_stays_within_its_limits(fusion, precision: str) -> None:
    model = lower(fusion.model, "fusion", precision, "rtx")
    runner = PartsRunner([SegmentPart(fusion.segment.plan, model)], fusion.segment.plan.outputs)
    check_limits(compare(runner.run, fusion.segment), precision)
    assert [node.op_type for node in model.graph.node if node.domain == "psamf"] == ["CrossModalAttention"]


def test_int8_weights_are_signed_and_by_channel(fusion) -> None:
    query, _, last = (lower_part(part, "int8-weights", "rtx", set()) for part in fusion.parts)
    for part in (query, last):
        weights = {weight.name: weight for weight in part.model.graph.initializer}
        made = {name: node for node in part.model.graph.node for name in node.output}
        products = [n for n in part.model.graph.node if n.op_type in ("MatMul", "Gemm", "Conv")]
        constant = [made[n.input[1]] for n in products if made.get(n.input[1], n).op_type == "DequantizeLinear"]
        assert len(constant) >= 3
        for node in constant:
            integers, scale = (onnx.numpy_helper.to_array(weights[name]) for name in node.input)
            (axis,) = (item.i for item in node.attribute)
            assert (integers.dtype, scale.dtype) == (np.int8, np.float16)
            assert scale.shape == (integers.shape[axis],)
            assert integers.min() >= -127
        floats = [w for w in weights.values() if w.data_type in (1, 10) and len(w.dims) > 1]
        assert all(n.input[1] not in {w.name for w in floats} for n in products)  # none was forgotten


@pytest.mark.trt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_segment_builds_with_the_kernel_and_without(made: KernelStudent, fusion, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    from psamf_edge.backends.engine_builder import EngineBuilder

    bundle = made.compile("rtx", precision, "kernel")
    assert [step.name for step in bundle.plan] == ["text", "audio", "face", "query", "cross_modal_attention", "score"]
    kernel = bundle.plan[4]
    weights = np.load(io.BytesIO(bundle.read(kernel.weights)), allow_pickle=False)
    assert weights.shape == (2, host.ROW)
    assert weights.dtype == (np.float32 if precision == "fp32" else np.float16)
    if precision == "fp32":
        assert [bundle.read(f"{p.plan.name}.onnx") for p in (fusion.parts[0], fusion.parts[2])] == [
            p.model.SerializeToString() for p in (fusion.parts[0], fusion.parts[2])
        ]
        np.testing.assert_array_equal(weights, fusion.parts[1].weights)
    if kernel.code is not None:
        assert b".visible .entry psamf_cross_modal_attention_f16" in bundle.read(kernel.code)
    check_plan(bundle)
    engines = [bundle.read(step.engine) for step in bundle.plan if isinstance(step, PlanSegment)]
    whole = lower(fusion.model, "fusion", precision, "rtx").SerializeToString()
    engines.append(EngineBuilder("tensorrt_rtx").build(whole, "fusion", fusion.segment.ranges))
    assert all(len(engine) > 10_000 for engine in engines)  # native code, and not an empty plan


@pytest.mark.trt
def test_the_fusion_in_one_engine_on_demand(made: KernelStudent) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    bundle = made.compile("rtx", "fp16", "graph")
    check_plan(bundle)
    assert [step.name for step in bundle.plan] == ["text", "audio", "face", "fusion"]
    assert not [name for name in bundle.files if name.endswith((".npy", ".ptx"))]


@pytest.mark.slow
@pytest.mark.trt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_default_student_builds(tmp_path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    from psamf_edge.compile.command import DEFAULT_WEIGHTS

    bundle = compile_bundle(DEFAULT_WEIGHTS, tmp_path / "out.psamf", "rtx", precision)
    assert [type(step) for step in bundle.plan] == [*[PlanSegment] * 4, PlanKernel, PlanSegment]


def test_the_kernel_is_refused_where_it_does_not_fit(tiny_weights, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"nothing to choose for cpu"):
        compile_bundle(tiny_weights, tmp_path / "out.psamf", "cpu", fusion="kernel")
    with pytest.raises(UsageError, match=r"no fusion magic: it is one of kernel, graph, plugin"):
        compile_bundle(tiny_weights, tmp_path / "out.psamf", "rtx", fusion="magic")
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    with pytest.raises(
        UsageError, match=r"width of 64 with 2 heads, and the student has 16 with 2: use --fusion graph"
    ):
        compile_bundle(tiny_weights, tmp_path / "out.psamf", "rtx", fusion="kernel")


def test_a_plan_whose_kernel_lacks_a_tensor_is_refused(fusion) -> None:
    plan = tuple(part.plan for part in fusion.parts)
    steps = [PlanSegment(m, "x", (), (f"{m}_steps", f"{m}_steps_mask", f"{m}_summary"), m) for m in ("audio", "face")]
    hidden = PlanSegment("text", "x", ("ids",), ("hidden",), "text")
    check_plan(SimpleNamespace(path="b", plan=(hidden, *steps, *plan)))
    with pytest.raises(
        IntegrityError, match="kernel cross_modal_attention needs query, lengths, which no earlier step"
    ):
        check_plan(SimpleNamespace(path="b", plan=(hidden, *steps, *plan[1:])))
    with pytest.raises(IntegrityError, match="segment score needs contexts"):
        check_plan(SimpleNamespace(path="b", plan=(hidden, *steps, plan[0], plan[2])))


def test_borders_of_a_graph_take_the_type_of_the_kernel(fusion) -> None:
    model = fusion.parts[0].model
    before = model.SerializeToString()
    types = {v.name: v.type.tensor_type.elem_type for v in to_half(model, {"query"}).graph.output}
    assert model.SerializeToString() == before  # the source is not touched
    assert types == {"query": onnx.TensorProto.FLOAT16, "lengths": onnx.TensorProto.INT32}
    assert {v.type.tensor_type.elem_type for v in to_half(model).graph.output} == {1, onnx.TensorProto.INT32}
