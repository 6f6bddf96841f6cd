"""The gate's stages: what they are kept by, and what is done about an overflow or a parity that breaks."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
onnx = pytest.importorskip("onnx")

from small_bundle import SHAPES, fusion_model, text_model, words

import psamf_edge
from psamf_edge.bundle import PlanSegment
from psamf_edge.compile.export.lowering import Exported
from psamf_edge.compile.export.partition import SegmentPart
from psamf_edge.compile.quality import data_stage, gate, sensitivity, stages
from psamf_edge.compile.quality.bounds import Bounds, PrecisionError, Quality
from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.compile.quality.data_stage import DataRecord, read_data
from psamf_edge.compile.quality.validation_set import data_digest
from psamf_edge.compile.stages import READ
from psamf_edge.compile.work import Work

SAMPLES = [Sample(str(ids), words(*ids)) for ids in ((1,), (2, 3), (30, 31))]
SOURCE = SimpleNamespace(files={"vocab.txt": b"a"}, shapes=SHAPES)
PARTS = [
    SegmentPart(PlanSegment("text", "text.onnx", ("ids", "text_mask"), ("pooled",)), text_model()),
    SegmentPart(PlanSegment("fusion", "fusion.onnx", ("pooled", "present"), ("score", "log_scale")), fusion_model()),
]


@pytest.fixture
def overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A precision in which the text overflows."""
    model = onnx.ModelProto()
    model.CopyFrom(PARTS[0].model)
    table = model.graph.initializer[0]
    infinite = np.full_like(onnx.numpy_helper.to_array(table), np.inf)
    table.CopyFrom(onnx.numpy_helper.from_array(infinite, table.name))

    def lower_part(part, precision, target, borders, kept=(), activations=None):
        whole = {node.name for node in part.model.graph.node} <= set(kept)
        return replace(part, model=model) if part.plan.name == "text" and not whole else part

    monkeypatch.setattr(sensitivity, "lower_part", lower_part)


def gate_stages(work: Work, log, parts=PARTS, quality: Quality | None = None) -> stages.GateStages:
    """fp16 for rtx, on SAMPLES."""
    exported = [Exported(None, tuple(parts))]
    return stages.GateStages(work, {}, SOURCE, exported, ("fp16", "rtx"), quality or Quality(), "small", log)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "read_data", lambda *rest: (SAMPLES, DataRecord("few", "", len(SAMPLES), 0)))


def test_what_was_judged_of_one_plan_is_not_taken_for_another(data, tmp_path: Path) -> None:
    lines: list[str] = []
    work = Work(tmp_path / "out", lines.append)
    gate_stages(work, lines.append).run(PARTS, [])
    gate_stages(work, lines.append).run(PARTS, [])
    assert sum(line.endswith("finished before") for line in lines) == 1
    cut_elsewhere = [replace(part, plan=replace(part.plan, name=f"{part.plan.name}-2")) for part in PARTS]
    gate_stages(work, lines.append, cut_elsewhere).run(cut_elsewhere, [])
    assert sum(line.endswith("finished before") for line in lines) == 1
    work.close(done=True)


def test_layers_are_searched_where_a_segment_overflows(overflow) -> None:
    with np.errstate(invalid="ignore"):
        found = sensitivity.Search(PARTS, SHAPES, SAMPLES, "fp16", "rtx").run()
    assert [(blame.part, blame.layer, blame.gap) for blame in found] == [
        ("text", None, np.inf),
        ("text", "all", np.inf),
        ("fusion", None, 0.0),
    ]


@pytest.mark.parametrize(
    ("mixed", "advice"), [(True, "No layer of it changes the scores"), (False, "Run again with --mixed")]
)
def test_a_parity_that_breaks_without_a_change_of_scores(data, tmp_path: Path, monkeypatch, mixed, advice) -> None:
    monkeypatch.setattr(sensitivity, "lower_part", lambda part, *rest: part)
    monkeypatch.setattr(gate, "lower_parts", lambda parts, *rest: parts)
    monkeypatch.setattr(gate, "compare_all", lambda *rest: [])
    monkeypatch.setattr(gate, "beyond_limits", lambda *rest: ["hidden is too far from PyTorch"])
    lines: list[str] = []
    work = Work(tmp_path / "out")
    with pytest.raises(PrecisionError, match=f"hidden is too far.*Nothing was written. {advice}") as caught:
        gate_stages(work, lines.append, quality=Quality(Bounds(), mixed=mixed)).run(PARTS, [])
    assert ("--mixed" in str(caught.value)) != mixed
    assert "    in fp32: " not in lines
    work.close(done=True)


def test_the_words_beside_a_clip_are_part_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("id,clip,text,label\na,a.mp4,,1\nb,b.mp4,said,1\n")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"a clip")
    found = [data_digest(path)]
    for name, content in (("a.srt", "one"), ("a.srt", "two"), ("a.TXT", "one")):
        (tmp_path / name).write_text(content)
        found.append(data_digest(path))
    assert len(set(found)) == 4
    (tmp_path / "b.srt").write_text("never read: the file says what is said")
    assert data_digest(path) == found[-1]


def test_features_of_another_version_are_not_taken(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(data_stage, "check_set", lambda *rest: SAMPLES)
    lines: list[str] = []
    work = Work(tmp_path / "out", lines.append)
    record = read_data(work, (READ, "data"), SOURCE, None, lines.append)[1]
    assert read_data(work, (READ, "data"), SOURCE, None, lines.append)[1] == record
    assert sum(line.endswith("finished before") for line in lines) == 1
    monkeypatch.setattr(psamf_edge, "__version__", "9.9")
    assert asdict(read_data(work, (READ, "data"), SOURCE, None, lines.append)[1]) == asdict(record)
    assert sum(line.endswith("finished before") for line in lines) == 1
    work.close(done=True)
