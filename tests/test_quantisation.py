"""Activations in eight bits: numbers, ranges and smoothing, and the Q/DQ graphs, against what others compute."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnxruntime as ort
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
from onnx import TensorProto, helper, numpy_helper

from psamf_edge.backends.sessions import open_session
from psamf_edge.compile.export.explicit import quantise_explicitly
from psamf_edge.compile.quantisation.formats import FORMATS, FP8, INT8, Format, fp8_bits
from psamf_edge.compile.quantisation.observation import observe
from psamf_edge.compile.quantisation.ranges import ALPHAS, FACTORS, Activation, Seen, choose
from psamf_edge.compile.quantisation.smoothing import smoothing_scales
from psamf_edge.compile.quantisation.stages import activations_from_files, activations_to_files

K, N, ROWS = 24, 10, 120  # channels in, channels out, rows


def outliers(seed: int) -> Seen:
    """An activation with two channels twenty times as large as the others, as BERT has them, and one that is 0."""
    rng = np.random.default_rng(seed)
    sizes = np.ones(K)
    sizes[[3, 11]], sizes[7] = 20, 0
    rows = (rng.standard_normal((ROWS, K)) * sizes).astype(np.float32)
    matrix = rng.standard_normal((K, N)).astype(np.float32)
    early, late = rows[: ROWS // 2], rows[ROWS // 2 :]
    return Seen(("one", "two"), (matrix, 3 * matrix[:, :4]), np.abs(rows).max(axis=0), np.abs(early).max(axis=0), late)


def test_fp8_is_ml_dtypes_fp8() -> None:
    """Every number that E4M3 has, every middle between two, and what lies beyond."""
    theirs = pytest.importorskip("ml_dtypes").float8_e4m3fn
    numbers = np.arange(256, dtype=np.uint8).view(theirs).astype(np.float64)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    values = np.concatenate([numbers, (numbers[1:] + numbers[:-1]) / 2, np.random.default_rng(0).normal(0, 50, 1000)])
    values = np.clip(values, -448, 448)  # beyond, theirs gives NaN
    np.testing.assert_array_equal(FP8.round(values), values.astype(theirs).astype(np.float64))
    np.testing.assert_array_equal(FP8.round(np.array([449.0, 1e6, -1e6])), [448, 448, -448])
    np.testing.assert_array_equal(fp8_bits(FP8.round(values)), values.astype(theirs).view(np.uint8))


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_is_onnxruntimes(name: str) -> None:
    form = FORMATS[name]
    values = np.concatenate([np.arange(-150, 150, 0.25), [1e4, -1e4, 0.0]]).astype(np.float32)
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
    zero = helper.make_tensor("z", form.kind, [], b"\0", raw=True)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(np.float32(0.5), "s"), zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (theirs,) = open_session(model.SerializeToString(), "q").run(["y"], {"x": values})
    np.testing.assert_array_equal(form.round(values / 0.5) * 0.5, theirs)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_choice_is_that_of_a_search_in_float64(name: str, seed: int) -> None:
    """Plain loops over both grids; int8's rounding written out, fp8's by ml_dtypes."""
    seen, form = outliers(seed), FORMATS[name]
    if name == "int8":
        rounded = lambda values: np.clip(np.rint(values), -128, 127)  # noqa: E731
    else:
        fp8 = pytest.importorskip("ml_dtypes").float8_e4m3fn
        rounded = lambda values: np.clip(values, -448, 448).astype(fp8).astype(np.float64)  # noqa: E731
    x = seen.rows.astype(np.float64)
    matrices = [matrix.astype(np.float64) for matrix in seen.matrices]
    weights = np.abs(np.hstack(matrices)).max(axis=1)

    def scaled(peak: np.ndarray, alpha: float | None, factor: float) -> tuple[float, np.ndarray]:
        s = np.ones(K)
        if alpha is not None:
            s = np.maximum(peak, 1e-5) ** alpha / weights ** (1 - alpha)
            s = np.clip(s / np.exp(np.log(s).mean()), 1 / 1024, 1024)
        return factor * (peak / s).max(), s

    errors = {}
    for alpha, factor in product(ALPHAS, FACTORS):
        greatest, s = scaled(seen.half_peak.astype(np.float64), alpha, factor)
        step_x, errors[alpha, factor] = greatest / form.greatest, 0.0
        for w in matrices:
            smooth = w * s[:, None]
            step_w = (np.abs(smooth).max(axis=0) if name == "int8" else np.abs(smooth).max()) / form.greatest
            found = (rounded(x / s / step_x) * step_x) @ (rounded(smooth / step_w) * step_w)
            errors[alpha, factor] += np.square(found - x @ w).sum()
    greatest, scales = scaled(seen.peak.astype(np.float64), *min(errors, key=errors.get))
    ours = choose(seen, form)
    assert ours.greatest == pytest.approx(greatest, rel=1e-5)  # float32 against float64
    np.testing.assert_allclose(np.ones(K) if ours.smoothing is None else ours.smoothing, scales, rtol=1e-5)


def test_smoothing_evens_out_what_the_activation_has_alone() -> None:
    seen = outliers(0)
    weights = np.abs(np.hstack(seen.matrices)).max(axis=1)
    np.testing.assert_allclose(smoothing_scales(seen.peak, weights, 0.0) * weights, np.full(K, 1.0) * (
        smoothing_scales(seen.peak, weights, 0.0) * weights)[0], rtol=1e-5)  # fmt: skip
    used = seen.peak > 0
    even = seen.peak[used] / smoothing_scales(seen.peak, weights, 1.0)[used]
    np.testing.assert_allclose(even, even[0], rtol=1e-5)
    assert np.isfinite(smoothing_scales(np.zeros(K), np.zeros(K), 0.5)).all()
    dead = np.where(np.arange(K) == 2, 0.0, 50.0)
    assert np.isfinite(np.float16(50 / smoothing_scales(dead, np.ones(K), 1.0))).all()  # float16 multiplies by it
    assert choose(seen, INT8).smoothing is not None  # with outliers, it pays


def two_readers() -> onnx.ModelProto:
    """x (N, K) to a product, and a Gemm with a transposed matrix and a bias: (N, 2 N') in all."""
    rng = np.random.default_rng(5)
    arrays = {
        "w": rng.standard_normal((K, N)), "v": rng.standard_normal((N, K)), "b": rng.standard_normal(N),
    }  # fmt: skip
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in arrays.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"], "one"),
        helper.make_node("Gemm", ["x", "v", "b"], ["second"], "two", transB=1),
        helper.make_node("Concat", ["first", "second"], ["y"], "join", axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", K])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2 * N])
    graph = helper.make_graph(nodes, "two", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def simulated(model: onnx.ModelProto, x: np.ndarray, how: Activation, form: Format, kept: str = "") -> np.ndarray:
    """What the quantised graph of `two_readers` gives, in NumPy and float64."""
    arrays = {w.name: numpy_helper.to_array(w).astype(np.float64) for w in model.graph.initializer}
    s = np.ones(K) if how.smoothing is None else how.smoothing.astype(np.float64)
    step = how.greatest / form.greatest
    rounded = form.round(x / s / step) * step
    outputs = []
    for name, matrix, bias in (("one", arrays["w"], 0), ("two", arrays["v"].T, arrays["b"])):
        smooth = matrix * s[:, None]
        peak = np.abs(smooth).max(axis=0) if form.by_channel else np.abs(smooth).max()
        weights = form.round(smooth / (peak / form.greatest)) * (peak / form.greatest)
        outputs.append((x @ matrix if name == kept else rounded @ weights) + bias)
    return np.hstack(outputs)


@pytest.mark.parametrize("kept", ["", "two"])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_onnxruntime_gives_what_quantising_and_dequantising_gives(name: str, smooth: bool, kept: str) -> None:
    model, form, seen = two_readers(), FORMATS[name], outliers(3)
    smoothing = smoothing_scales(seen.peak, np.ones(K), 0.5) if smooth else None
    how = Activation(("one", "two"), 6.0, smoothing)
    quantised = quantise_explicitly(model, {"x": how}, form, {kept})
    onnx.checker.check_model(quantised, full_check=True)
    session = open_session(quantised.SerializeToString(), "q", integer_products=False)
    (ours,) = session.run(["y"], {"x": seen.rows})
    wanted = simulated(model, seen.rows.astype(np.float64), how, form, kept)
    # float32 sums in another order; a value at the middle between two numbers may go to the other in float32, and
    # moves one row's outputs by a step of 6 / 127 times a weight
    off = np.abs(ours - wanted) > 1e-4
    assert off.any(axis=1).mean() < 0.1
    assert np.abs(ours - wanted).max() < 1.0
    kinds = [node.op_type for node in quantised.graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("Mul")) == (1, int(smooth))  # one for all who read it
    assert kinds.count("DequantizeLinear") == 1 + (1 if kept else 2)


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_are_symmetric_and_weights_have_their_channels(name: str) -> None:
    form = FORMATS[name]
    quantised = quantise_explicitly(two_readers(), {"x": Activation(("one", "two"), 6.0)}, form)
    constants = {weight.name: weight for weight in quantised.graph.initializer}
    assert not {"w", "v"} & set(constants)  # the float weights are gone
    for node in quantised.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if len(node.input) > 2:
            zero = constants[node.input[2]]
            assert (zero.data_type, zero.raw_data, list(constants[node.input[1]].dims)) == (form.kind, b"\0", [])
        else:
            bits, scale = (constants[given] for given in node.input)
            axes = [attribute.i for attribute in node.attribute]
            assert bits.data_type == form.kind
            assert list(scale.dims) == ([bits.dims[axes[0]]] if form.by_channel else [])
            assert axes == ([[1], [0]][list(bits.dims) == [N, K]] if form.by_channel else [])


@pytest.fixture(scope="module")
def parts(tiny_export):
    from psamf_edge.compile.export.lowering import cut

    exported = [cut(tiny_export.models[s.plan.name], s, None) for s in tiny_export.segments]
    return [part for each in exported for part in each.parts]


@pytest.fixture(scope="module")
def samples(tiny_bundle):
    from psamf_edge.compile.quality.check_set import check_set

    return check_set(tiny_bundle.read("vocab.txt"), tiny_bundle.shapes)[:8]


@pytest.fixture(scope="module")
def seen(parts, samples, tiny_bundle):
    return observe(parts, tiny_bundle.shapes, samples)


def test_what_is_seen_is_what_onnxruntime_gives(seen, parts, samples) -> None:
    """The first activation of the text, taken out of the graph by hand."""
    assert set(seen) == {"text", "fusion"}
    (name, first), *_ = seen["text"].items()
    assert len(first.products) == 3  # query, key and value
    text = next(part for part in parts if part.plan.name == "text")
    model = onnx.ModelProto()
    model.CopyFrom(text.model)
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString())
    halves: tuple[list, list] = ([], [])
    for number, sample in enumerate(samples):
        if (ids := sample.features.ids) is not None:
            given = {"ids": ids[None].astype(np.int64), "text_mask": np.ones((1, len(ids)), np.float32)}
            halves[number % 2].append(session.run([name], given)[0][0])
    early, late = map(np.concatenate, halves)
    np.testing.assert_allclose(first.half_peak, np.abs(early).max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(first.peak, np.abs(np.concatenate([early, late])).max(axis=0), rtol=1e-5)
    assert len(first.rows) == min(len(late), 512)
    distance = np.abs(first.rows[:, None, :] - late[None]).max(axis=2).min(axis=1)  # to the nearest row held out
    assert distance.max() < 1e-5  # float32, in a graph that is fused otherwise


def test_smoothing_alone_changes_no_score(seen, parts, samples, tiny_bundle) -> None:
    """Divisions and multiplied weights, with the rounding to eight bits taken out again."""
    from dataclasses import replace

    from psamf_edge.compile.quality.plan_scorer import PlanScorer

    exact = Format("24 bits", TensorProto.INT32, 2.0**23, True, np.rint, lambda values: values.astype(np.int32))
    smooth = []
    for part in parts:
        how = {
            name: Activation(each.products, 1.0, each.smoothing(0.8, each.peak))
            for name, each in seen.get(part.plan.name, {}).items()
        }
        smooth.append(replace(part, model=without_quantised_activations(quantise_explicitly(part.model, how, exact))))
    before, after = (PlanScorer(each, tiny_bundle.shapes).scores(samples) for each in (parts, smooth))
    assert before.std() > 0.01
    # two more float32 roundings for each value, 1e-7 each, and weights to 2^-23 of the greatest in their channel;
    # through a few layers of sums that stays far below 1e-4, and a wrong scale is far above it
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4)


def without_quantised_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with each pair of Q and DQ of an activation left out; weights stay dequantised."""
    sources: dict[str, str] = {}
    for node in list(model.graph.node):
        node.input[:] = [sources.get(name, name) for name in node.input]
        if node.op_type == "QuantizeLinear" or (node.op_type == "DequantizeLinear" and len(node.input) == 3):
            sources[node.output[0]] = node.input[0]
            model.graph.node.remove(node)
    return model


def test_a_calibration_survives_a_file(seen) -> None:
    found = {part: {name: choose(each, INT8) for name, each in tensors.items()} for part, tensors in seen.items()}
    found["text"]["plain"] = Activation(("a", "b"), 0.1)
    again = activations_from_files(activations_to_files(found))
    assert {part: list(tensors) for part, tensors in again.items()} == {p: list(t) for p, t in found.items()}
    for part, tensors in found.items():
        for name, each in tensors.items():
            other = again[part][name]
            assert (other.products, other.greatest) == (each.products, each.greatest)
            np.testing.assert_array_equal(other.smoothing, each.smoothing)
