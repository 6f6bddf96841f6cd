"""The gate of compile: what a precision costs, which layers are to blame, and what is kept for it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
onnx = pytest.importorskip("onnx")

from psamf_edge.backends import open_backend
from psamf_edge.cli import main
from psamf_edge.compile.command import compile_bundle
from psamf_edge.compile.export import onnx_export, preflight
from psamf_edge.compile.export.lowering import Exported, cut, lower_parts
from psamf_edge.compile.quality import sensitivity
from psamf_edge.compile.quality.bounds import Bounds, Quality
from psamf_edge.compile.quality.check_set import SENTENCES, Sample, check_set
from psamf_edge.compile.quality.comparison import compare_scores
from psamf_edge.compile.quality.gate import Gate
from psamf_edge.compile.quality.plan_scorer import PlanScorer, downstream
from psamf_edge.compile.quality.sample_files import samples_from_files, samples_to_files
from psamf_edge.metrics import evaluate_scores
from psamf_edge.plan import Features

SAMPLE = Path(__file__).parents[1] / "psamf_edge" / "data" / "sample.mp4"


@pytest.fixture(scope="module")
def samples(tiny_bundle) -> list[Sample]:
    return check_set(tiny_bundle.read("vocab.txt"), tiny_bundle.shapes)


@pytest.fixture(scope="module")
def exported(tiny_export) -> list[Exported]:
    return [cut(tiny_export.models[segment.plan.name], segment, None) for segment in tiny_export.segments]


@pytest.fixture(scope="module")
def parts(exported) -> list:
    return [part for each in exported for part in each.parts]


@pytest.fixture
def quick(tiny_export, monkeypatch):
    """compile_bundle and the command take the exports that are there already."""
    monkeypatch.setattr(onnx_export, "export", lambda segment: tiny_export.models[segment.plan.name])


def coarse(parts, layer: str):
    """The text part with one layer's products rounded so coarsely that its scores move."""
    model = onnx.ModelProto()
    model.CopyFrom(parts[0].model)
    nodes = sensitivity.groups(model)[layer]
    read = {name for node in model.graph.node if node.name in nodes and node.op_type == "MatMul" for name in node.input}
    for weight in model.graph.initializer:
        if weight.name in read:
            value = onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(np.rint(value / 0.1).astype(np.float32) * 0.1, weight.name))
    return replace(parts[0], model=model)


def test_the_check_set_is_the_same_every_time_and_holds_every_subset(samples, tiny_bundle) -> None:
    again = check_set(tiny_bundle.read("vocab.txt"), tiny_bundle.shapes)
    assert len(samples) == len(again) == len(SENTENCES)
    for ours, theirs in zip(samples, again, strict=True):
        for name in ("ids", "audio", "face"):
            np.testing.assert_array_equal(getattr(ours.features, name), getattr(theirs.features, name))
    assert len({sample.features.present for sample in samples}) == 7
    assert len({sample.name for sample in samples}) == len(samples)
    voices = np.concatenate([s.features.audio for s in samples if s.features.audio is not None])
    faces = np.concatenate([s.features.face for s in samples if s.features.face is not None])
    assert np.isfinite(voices).all()
    assert np.isfinite(faces).all()
    assert (np.ptp(voices, axis=0) > 0).all()  # every measure of a voice is exercised
    np.testing.assert_allclose(faces[:, 30:37].sum(axis=1), 1, atol=1e-5)  # seven expressions, of float32


def test_samples_survive_a_file(samples) -> None:
    samples = [*samples[:8], Sample("größer <b>", Features(np.array([2, 3])), -1.5)]
    for ours, theirs in zip(samples, samples_from_files(samples_to_files(samples)), strict=True):
        assert (ours.name, ours.label, ours.features.present) == (theirs.name, theirs.label, theirs.features.present)
        for name in ours.features.present:
            name = {"text": "ids"}.get(name, name)
            np.testing.assert_array_equal(getattr(ours.features, name), getattr(theirs.features, name))


def test_a_plan_that_is_not_packed_scores_as_the_runtime_does(parts, samples, tiny_bundle) -> None:
    scores = PlanScorer(parts, tiny_bundle.shapes).scores(samples)
    with open_backend(tiny_bundle, "cpu") as backend:
        for score, sample in zip(scores, samples, strict=True):
            # the bundle's convolutions are images, which sum in another order
            assert score == pytest.approx(backend.run(sample.features).score, abs=1e-5)


def test_comparison_against_plain_formulas() -> None:
    rng = np.random.default_rng(0)
    samples = [Sample(str(i), Features(), float(rng.uniform(-3, 3)) if i % 3 else None) for i in range(50)]
    exact = rng.uniform(-3, 3, 50)
    lowered = exact + rng.normal(0, 0.1, 50)
    found = compare_scores(samples, exact, lowered)
    assert found.gap == pytest.approx(np.mean(np.abs(lowered - exact)))
    assert found.corr == pytest.approx(np.corrcoef(exact, lowered)[0, 1])
    assert found.worst == np.abs(lowered - exact).max()
    assert found.worst_sample == str(np.abs(lowered - exact).argmax())
    rows = [i for i in range(50) if i % 3]
    for side, scores in (("fp32", exact), ("lowered", lowered)):
        table = evaluate_scores(scores[rows], [samples[i].label for i in rows])
        assert found.against_labels[side] == {name: table[name] for name in found.against_labels[side]}


def test_each_bound_is_a_sentence_and_counts_only_what_gets_worse() -> None:
    labels = [2.0, -2.0, 1.0, -1.0]
    samples = [Sample(f"s{i}", Features(), label) for i, label in enumerate(labels)]
    exact = np.array([1.0, -1.0, 0.5, -0.5])
    worse, better = np.array([1.0, -1.0, 0.5, 0.5]), np.array([2.0, -2.0, 1.0, -1.0])
    wide = Bounds(gap=3, worst=3)
    broken = compare_scores(samples, exact, worse).broken(wide)
    assert [sentence.split(" by ")[0] for sentence in broken] == ["the MAE against the labels rises", "acc2_non0 falls"]
    assert compare_scores(samples, exact, better).broken(wide) == []
    assert len(compare_scores(samples, exact, better).broken(Bounds())) == 2  # yet it is another model
    assert compare_scores(samples, exact, exact).broken(Bounds(0, 0, 0, 0)) == []
    assert "s3" in compare_scores(samples, exact, worse).broken(Bounds(mae=3, acc2=1, gap=3))[0]


def test_a_score_that_is_not_finite_breaks_every_bound() -> None:
    samples = [Sample("a", Features(), 1.0), Sample("b", Features(), 1.0)]
    found = compare_scores(samples, np.array([1.0, 1.0]), np.array([1.0, np.nan]))
    assert (found.gap, found.worst, found.worst_sample, found.corr) == (np.inf, np.inf, "b", None)
    assert len(found.broken(Bounds(gap=3, worst=3))) == 2


def test_an_overflow_in_float16_is_a_finding_and_no_crash(parts, samples, tiny_bundle, monkeypatch) -> None:
    scorer = PlanScorer(parts, tiny_bundle.shapes)
    step = scorer._runner.step
    overflown = lambda part, tensors: {name: value * np.inf for name, value in step(part, tensors).items()}  # noqa: E731
    monkeypatch.setattr(scorer._runner, "step", overflown)
    assert np.isnan(scorer.scores(samples[:3])).all()


def test_what_depends_on_a_segment(parts) -> None:
    assert downstream(parts, "text") == {"text", "fusion"}
    assert downstream(parts, "fusion") == {"fusion"}


def test_every_node_is_of_one_layer_and_products_of_their_own(tiny_export) -> None:
    for model in tiny_export.models.values():
        layers = sensitivity.groups(model)
        nodes = [name for names in layers.values() for name in names]
        assert sorted(nodes) == sorted(node.name for node in model.graph.node)
    layers = sensitivity.groups(tiny_export.models["text"])
    kinds = {node.name: node.op_type for node in tiny_export.models["text"].graph.node}
    assert [kinds[name] for name in layers["blocks.0.up"]].count("MatMul") == 1
    assert "Gather" in {kinds[name] for layer in layers if layer.startswith("embeddings") for name in layers[layer]}


def test_the_search_names_the_layer_that_is_guilty(parts, samples, tiny_bundle, monkeypatch) -> None:
    layer = "blocks.0.up"
    broken = coarse(parts, layer)
    nodes = set(sensitivity.groups(parts[0].model)[layer])

    def lower_only_that(part, precision, target, borders, kept=()):
        return broken if part.plan.name == "text" and not nodes <= set(kept) else part

    monkeypatch.setattr(sensitivity, "lower_part", lower_only_that)
    seen = []
    found = sensitivity.Search(parts, tiny_bundle.shapes, samples, "fp16", "rtx").run(seen.append)
    assert [line for line in seen if not line.endswith("...")] == [blame.row() for blame in found]
    assert (found[0].part, found[0].layer) == ("text", None)
    assert [(blame.part, blame.layer) for blame in sensitivity.guilty(found)] == [("text", layer)]
    assert sensitivity.guilty(found)[0].gap == found[0].gap > 0


@pytest.mark.parametrize(("precision", "target"), [("int8", "cpu"), ("int8-weights", "rtx"), ("fp16", "rtx")])
def test_everything_kept_is_float32_again(parts, samples, tiny_bundle, precision: str, target: str) -> None:
    kept = {part.plan.name: {node.name for node in part.model.graph.node} for part in parts}
    scorer = PlanScorer(parts, tiny_bundle.shapes)
    exact = scorer.scores(samples)
    lowered = PlanScorer(lower_parts(parts, precision, target), tiny_bundle.shapes).scores(samples)
    parts_again = lower_parts(parts, precision, target, kept)
    for part in parts_again:
        assert not {"MatMulInteger", "DequantizeLinear"} & {node.op_type for node in part.model.graph.node}
    again = PlanScorer(parts_again, tiny_bundle.shapes).scores(samples)
    gap = np.abs(lowered - exact).mean()
    assert gap > 0
    # int8-weights keeps layers in float16; where nothing is rounded, images sum in another order than steps do
    assert np.abs(again - exact).mean() < (gap if precision == "int8-weights" else 1e-5)


def test_mixed_keeps_as_few_layers_as_the_bound_needs(exported, samples, tiny_bundle) -> None:
    plain = Gate(exported, tiny_bundle.shapes, samples, "int8", "cpu", Bounds())
    whole = plain.judge(lower_parts([p for e in exported for p in e.parts], "int8", "cpu"))
    gate = Gate(exported, tiny_bundle.shapes, samples, "int8", "cpu", Bounds(gap=whole.comparison.gap / 2))
    found = gate.search(lambda line: None)
    judged, kept = gate.mend(found, lambda line: None)
    assert judged.broken == []
    assert judged.comparison.gap <= whole.comparison.gap / 2
    assert 0 < len(kept) < len(sensitivity.guilty(found))
    assert [blame.gap for blame in kept] == sorted((blame.gap for blame in kept), reverse=True)


def test_past_a_bound_nothing_is_written_and_the_layers_are_named(quick, tiny_weights, tmp_path: Path) -> None:
    report, output = tmp_path / "report.html", tmp_path / "out.psamf"
    arguments = ["compile", str(tiny_weights), "-o", str(output), "--max-gap", "1e-7", "--report", str(report)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 4
    assert not output.exists()
    for word in ("blocks.0", "mean", "worst", "--mixed", "at most 1e-07 is allowed", "Nothing was written"):
        assert word in result.stderr
    assert result.stdout == ""
    page = report.read_text(encoding="utf-8")
    assert "refused" in page
    assert "blocks.0" in page
    # what is finished is kept, and --mixed goes on from there
    again = CliRunner().invoke(main, [*arguments, "--mixed", "--max-gap", "0.0005"])
    assert (again.exit_code, again.stdout) == (0, "")
    assert again.stderr.count("finished before") == 6  # four exports, the lowering, the data; the bound is another
    gate = json.loads((output / "manifest.json").read_text())["provenance"]["gate"]
    assert gate["kept"]["precision"] == "fp32"
    assert gate["kept"]["layers"]
    assert gate["comparison"]["gap"] <= 0.0005
    assert list(tmp_path.glob(".*")) == []  # the work folder is gone
    assert "Kept in fp32" in report.read_text(encoding="utf-8")


def test_the_manifest_says_how_it_was_judged(compile_tiny) -> None:
    gate = compile_tiny("cpu", "int8").provenance["gate"]
    assert gate["data"] | {"sha256": ""} == {
        "name": "synthetic check set 1", "sha256": "", "n": 32, "labelled": 0, "failed": 0
    }  # fmt: skip
    assert "ONNX Runtime" in gate["evaluated_by"]
    assert gate["comparison"]["against_labels"] is None
    assert 0 < gate["comparison"]["gap"] < gate["bounds"]["gap"]
    assert "kept" not in gate
    assert compile_tiny("cpu", "fp32").provenance["gate"]["comparison"]["worst"] < 1e-5


def test_validation_data_goes_through_the_runtimes_own_features(quick, tiny_weights, tiny_bundle, tmp_path) -> None:
    path, report = tmp_path / "data <b>.csv", tmp_path / "report.html"
    hostile = '<script>alert("1")</script>'
    rows = [("a", "", "it is good", 1.0), (hostile, str(SAMPLE), "well done", -0.5), ("c", "", "not bad", 0.5),
            ("d", "missing.mp4", "", 1.0)]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "clip", "text", "label"), *rows])
    lines = []
    quality = Quality(Bounds(mae=0.2, acc2=1, gap=1, worst=1), validate=path, report=report)
    bundle = compile_bundle(tiny_weights, tmp_path / "o.psamf", "cpu", "int8", log=lines.append, quality=quality)
    gate = bundle.provenance["gate"]
    assert gate["data"]["name"] == "data <b>.csv"
    assert (gate["data"]["n"], gate["data"]["labelled"], gate["data"]["failed"]) == (3, 3, 1)
    assert any("missing.mp4" in line for line in lines)
    # the same rows by the evaluate command with the two bundles
    for side, other in (("fp32", tiny_bundle), ("lowered", bundle)):
        told = CliRunner().invoke(main, ["evaluate", str(path), "--bundle", str(other.path), "--device", "cpu", "-q"])
        expected = json.loads(told.stdout)
        for name, value in gate["comparison"]["against_labels"][side].items():
            assert value == pytest.approx(expected[name], abs=1e-5), name  # images sum in another order
    page = report.read_text(encoding="utf-8")
    assert hostile not in page
    assert "data &lt;b&gt;.csv" in page
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    assert all(not {"style", "src", "href", "onload"} & set(attributes) for _, attributes in tags)
    policy = next(attributes["content"] for tag, attributes in tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_the_features_of_a_row_are_those_that_a_bundle_is_given(tiny_bundle, monkeypatch, tmp_path) -> None:
    from psamf_edge.analyzer import Analyzer
    from psamf_edge.cli.evaluate import score_row
    from psamf_edge.compile.quality.validation_set import FeatureReader
    from psamf_edge.dataset import Row

    row, seen = Row(1, "a", SAMPLE, "good", 0.0), []
    files = {name: tiny_bundle.read(name) for name in tiny_bundle.files}
    with FeatureReader(files, tiny_bundle.shapes) as reader:
        ours = reader.features(row)
    with Analyzer(tiny_bundle.path, "cpu") as analyzer:
        run = analyzer._scorer._backend.run
        analyzer._scorer._backend.run = lambda features: seen.append(features) or run(features)
        score_row(analyzer, row, ("text", "audio", "face"))
    for name in ("ids", "audio", "face"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(seen[0], name))


@pytest.mark.parametrize("content", ["id,label\n1,0\n", "id,text,label\n", "id,clip,label\n1,nowhere.mp4,0\n"])
def test_validation_data_that_cannot_be_used(quick, tiny_weights, tmp_path, content: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    result = CliRunner().invoke(
        main, ["compile", str(tiny_weights), "-o", str(tmp_path / "o.psamf"), "--validate", str(path)]
    )
    assert result.exit_code == 2
    assert "data.csv" in result.stderr
    assert not (tmp_path / "o.psamf").exists()
    assert ("[1/" in result.stderr) == ("nowhere" in content)  # what needs no work is found before it


def test_what_is_mended_is_held_against_the_target_again(quick, tiny_weights, tmp_path, monkeypatch) -> None:
    checked = []
    monkeypatch.setattr(preflight, "check_operators", lambda parts, *rest: checked.append(parts))
    quality = Quality(Bounds(gap=1e-5), mixed=True)
    compile_bundle(tiny_weights, tmp_path / "o.psamf", "tensorrt", "fp16", quality=quality, engines=False)
    weights = [[value for part in parts for value in part.model.graph.initializer] for parts in checked]
    first, mended = (sum(value.data_type == onnx.TensorProto.FLOAT16 for value in values) for values in weights)
    assert 0 <= mended < first


def test_wrong_options(tiny_weights, tmp_path: Path) -> None:
    run = lambda *more: CliRunner().invoke(  # noqa: E731
        main, ["compile", str(tiny_weights), "-o", str(tmp_path / "o.psamf"), *more]
    )
    for more, word in (
        (("--max-gap", "-1"), "max-gap"),
        (("--report", str(tmp_path / "no" / "r.html")), "make it first"),
        (("--report", str(tmp_path / "o.psamf")), "is where the bundle goes"),
        (("--student", str(tmp_path)), "teacher"),
    ):
        result = run(*more)
        assert result.exit_code == 2
        assert word in result.stderr
