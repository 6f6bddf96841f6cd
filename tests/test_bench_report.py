"""Warnings, tables, drawing, file and comparison of runs that were made up."""

import dataclasses
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner

from psamf_edge.bench.caveats import COPIES, caveats
from psamf_edge.bench.compare import as_json, as_table, compare
from psamf_edge.bench.conditions import Conditions
from psamf_edge.bench.plot import COLORS, chart, draw
from psamf_edge.bench.processes import throughput_group
from psamf_edge.bench.record import Record, read_record
from psamf_edge.bench.series import Series
from psamf_edge.bench.stages import CLIP, length_group
from psamf_edge.bench.tables import Table, as_markdown, as_text, document, heading, tables_of
from psamf_edge.cli.bench import bench
from psamf_edge.errors import InputError
from psamf_edge.report.picture import PALETTE, Line, Rect, Text

MACHINE = {"cpu": "A cpu, 4 cores", "cores": 4, "memory": "8 GB", "gpus": [], "board": None, "power_mode": None,
           "power_mend": None, "system": "Linux", "versions": {"numpy": "2.0"}}  # fmt: skip
QUIET = Conditions(busy_cores=0.0, stolen=1.0)


def steady(n=120, centre=100.0, seed=0, spread=1.0):
    return tuple(np.random.default_rng(seed).normal(centre, spread, n).tolist())


def whole(samples):
    return Series("m", CLIP, "whole", "ms", tuple(map(float, samples)))


def found_in(series, machine=None, before=QUIET, after=QUIET, elapsed=10.0):
    return caveats(series, MACHINE | (machine or {}), before, after, elapsed)


def test_a_good_run_has_no_warnings():
    fine = [
        whole(steady()),
        Series("m", CLIP, "decode", "ms", (10.0,) * 120),
        Series("m", CLIP, "model", "ms", (9.0,) * 120),
    ]
    fine += [Series("m", throughput_group(n), "clips a second", "clips/s", (float(n),)) for n in (1, 2, 4)]
    assert found_in(fine) == []


@pytest.mark.parametrize(
    ("rounds", "hollow"),
    [(2, "p90, p95 and p99 are"), (10, "p95 and p99 are"), (20, "p99 is"), (99, "p99 is"), (100, None)],
)
def test_few_samples(rounds, hollow):
    sentences = found_in([whole(steady(rounds))])
    assert sentences == ([] if hollow is None else sentences[:1])
    assert hollow is None or f"of {rounds} rounds, {hollow} little more" in sentences[0]


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.array(steady()) + np.linspace(0, 20, 120), "took 13% more than the first"),
        (np.array(steady()) - np.linspace(0, 20, 120), "raise --warmup"),
        (np.array(steady()) + np.linspace(0, 3, 120), None),  # a trend that nobody would notice
        ([100, 101, 99, 140, 141, 140], None),  # too few to tell a trend from chance
    ],
)
def test_drift(samples, said):
    sentences = [sentence for sentence in found_in([whole(samples)]) if sentence.startswith("Drift")]
    assert len(sentences) == (said is not None)
    assert said is None or said in sentences[0]


def test_steady_noise_is_rarely_called_a_drift():
    false = sum(any("Drift" in s for s in found_in([whole(steady(30, 100, seed, 20))])) for seed in range(200))
    assert false <= 8  # one side of Z_TREND has 1 % of chance, two sides 2 %: 4 of 200, and twice that for chance


def test_variance_and_tails():
    wide = found_in([whole(np.tile([80, 90, 110, 120], 30))])
    assert any("High variance" in s and "between 88 and 112 ms" in s for s in wide)
    tail = list(steady(120))
    tail[::10] = [300.0] * 12
    assert any("Long tail, m: p95 is 3.0 times p50" in s for s in found_in([whole(tail)]))


def test_what_bounds_a_clip():
    parts = {"decode": 60.0, "model": 10.0, COPIES: 4.0}
    series = [whole(steady()), *(Series("m", CLIP, name, "ms", (ms,) * 120) for name, ms in parts.items())]
    decode, copies = found_in(series)
    assert decode.startswith("Decode-bound, m: waiting for the decoder is 60% of a clip")
    assert copies.startswith("Copy-bound, m: copies to the GPU and back, alone, take 40%")


def test_more_processes_than_cores_or_than_help():
    def levels(*pairs):
        return [Series("m", throughput_group(n), "clips a second", "clips/s", (r,)) for n, r in pairs]

    (over,) = found_in(levels((1, 2.0), (2, 4.0), (8, 9.0)))
    assert over.startswith("Queue-bound, m: 8 processes wait for 4 cores")
    (flat,) = found_in(levels((1, 2.0), (2, 2.1)))
    assert "2 processes score 1.05 times the clips of 1" in flat


@pytest.mark.parametrize(
    ("before", "after", "machine", "said"),
    [
        (Conditions(busy_cores=1.9, pressure=90.0), QUIET, {}, "Other processes used 1.9 cores"),
        (Conditions(busy_cores=0.0, pressure=30.0), QUIET, {}, "something waited for a core 30 %"),
        (Conditions(stolen=1.0), Conditions(stolen=3.0), {}, "kept 0.20 cores for itself"),
        (QUIET, Conditions(cpu_mhz=900.0, cpu_max_mhz=3e3, governor="slow"), {}, "900 of 3000 MHz (governor slow)"),
        (QUIET, Conditions(gpu_throttled=["power cap"]), {}, "held down by its power cap"),
        (QUIET, QUIET, {"power_mode": "2 (15W)", "power_mend": "sudo nvpmodel -m 0"}, "2 (15W): sudo nvpmodel -m 0."),
    ],
)  # fmt: skip
def test_conditions_that_spoil_figures(before, after, machine, said):
    (sentence,) = found_in([], machine, before, after)
    assert said in sentence


def record_of(models=("m",), scale=1.0, **changes):
    """A run in which each model takes twice the time of the one before."""
    series = []
    for number, label in enumerate(models):
        factor = scale * 2**number
        times = tuple(factor * np.array(steady(40)))
        series += [
            Series(label, CLIP, "whole", "ms", times),
            Series(label, CLIP, "model", "ms", tuple(np.array(times) / 10)),
            Series(label, length_group(10, 2.0), "model", "ms", (factor, 2 * factor)),
            Series(label, length_group(50, 10.0), "model", "ms", (5 * factor, 5 * factor)),
            Series(label, throughput_group(1), "clips a second", "clips/s", (10 / factor,)),
            Series(label, "memory", "resident", "MB", (150.0,)),
        ]
    described = {
        "name": "n", "target": "cpu", "precision": "int8", "backend": "onnxruntime", "manifest_sha256": "a" * 64,
        "size_mb": 25.0, "note": None, "score": 0.5,
    }  # fmt: skip
    record = Record(
        taken="2026-01-02T03:04:05+00:00",
        machine=MACHINE,
        settings={"text": None, "device": "auto", "threads": 1, "warmup": 3},
        clip={"name": "talk.mp4", "sha256": "b" * 64, "duration_ms": 9000, "utterances": 3},
        models={label: dict(described) for label in models},
        conditions={"before": QUIET.as_dict(), "after": QUIET.as_dict(), "elapsed_s": 10.0},
        notes=["no energy."],
        warnings=["few samples."],
        series=series,
    )
    return dataclasses.replace(record, **changes)


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "a.json"
    record = record_of(("one", "two"))
    path.write_text(record.to_json())
    back = read_record(path)
    assert back.models == record.models
    for ours, theirs in zip(record.series, back.series, strict=True):
        assert ours.key == theirs.key
        assert ours.samples == pytest.approx(theirs.samples, abs=1e-4)  # DIGITS
    assert json.loads(path.read_text())["series"][0]["summary"]["n"] == 40


def test_file_names_that_are_not_unicode_can_be_written():
    record = record_of(clip={"name": "t\udcff.mp4", "sha256": "b" * 64, "duration_ms": 0, "utterances": 1})
    assert json.loads(record.to_json())["clip"]["name"] == "t\ufffd.mp4"
    ET.fromstring(draw(record))
    document(heading(record), tables_of(record), [], [], "text").encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "holds no JSON object"),
        (b"{}", "has the schema 'None'"),
        (b'{"schema": "psamf-edge-bench/2"}', "'psamf-edge-bench/2'.*compares 'psamf-edge-bench/1'"),
        (b'{"schema": "psamf-edge-bench/1"}', "no valid 'taken'"),
    ],
)
def test_files_that_are_no_run(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_record(path)


@pytest.mark.parametrize("samples", [[], "123", ["1"], [float("nan")], [True], None])
def test_series_that_are_damaged(tmp_path, samples):
    document = json.loads(record_of().to_json())
    document["series"][0]["samples"] = samples
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="finite samples"):
        read_record(path)
    with pytest.raises(InputError, match=r"nothing\.json cannot be read"):
        read_record(tmp_path / "nothing.json")


def test_two_runs_compared():
    a, b = record_of(("fp32", "int8")), record_of(("fp32", "int8"), scale=0.5)
    pairs, remarks = compare(a, b)
    assert remarks == []
    assert len(pairs) == len(a.series)
    table = as_table(pairs)
    rows = {(row[0], row[1]): row for row in table.rows}
    ours, theirs = map(float, rows["clip: whole", "int8"][2:4])
    assert ours / theirs == pytest.approx(2, rel=0.01)  # three digits are shown
    assert rows["clip: whole", "int8"][5].startswith("0.5 [")
    assert rows["clip: whole", "int8"][6:] == ["0.5"] * 3
    assert rows["memory: resident", "fp32"][5:] == ["1", "", "", ""]  # one sample has no tail
    assert rows["throughput, 1 process: clips a second", "fp32"][5] == "2"
    ratios = json.loads(as_json(a, b, pairs, remarks))["ratios"]
    assert ratios[0]["ratio"]["low"] < 0.5 < ratios[0]["ratio"]["high"]


def test_what_differs_is_said():
    a = record_of()
    b = record_of(
        machine=MACHINE | {"cpu": "Another", "versions": {"numpy": "2.1", "av": "17"}},
        clip=a.clip | {"sha256": "c" * 64},
        settings=a.settings | {"threads": 4},
        series=a.series[:-1],
    )
    b.models["m"]["precision"] = "fp16"
    _, remarks = compare(a, b)
    assert "machine cpu differs: A cpu, 4 cores in A, Another in B." in remarks
    assert "version of numpy differs: 2.0 in A, 2.1 in B." in remarks
    assert "version of av differs: none in A, 17 in B." in remarks
    assert any(remark.startswith("clip sha256 differs") for remark in remarks)
    assert "settings threads differs: 1 in A, 4 in B." in remarks
    assert "m, precision differs: int8 in A, fp16 in B." in remarks
    assert "1 series are in one run only." in remarks


def test_single_models_are_compared_whatever_their_names():
    pairs, _ = compare(record_of(("old",)), record_of(("new",)))
    assert {label for label, _, _ in pairs} == {"old / new"}
    with pytest.raises(InputError, match="nothing in common"):
        compare(record_of(("a", "b")), record_of(("c", "d")))


@pytest.mark.parametrize("format_", ["text", "markdown", "json"])
def test_the_command_compares(tmp_path, format_):
    for name, scale in (("a", 1.0), ("b", 3.0)):
        (tmp_path / f"{name}.json").write_text(record_of(scale=scale).to_json())
    arguments = ["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-f", format_]
    done = CliRunner().invoke(bench, arguments, standalone_mode=False)
    assert done.return_value == 0, done.output
    assert "few samples." in done.stdout or format_ == "json"
    if format_ == "json":
        assert json.loads(done.stdout)["ratios"][0]["ratio"]["p50"] == pytest.approx(3)
    else:
        assert "3 [" in done.stdout


def test_tables_show_each_model_and_its_ratio():
    tables = {table.header[0]: table for table in tables_of(record_of(("one", "two")))}
    assert list(tables) == ["clip", "model", "throughput", "memory"]
    assert tables["clip"].header[-1] == "times one [95 %]"
    assert [row[:2] for row in tables["clip"].rows] == [
        ["whole", "one"],
        ["whole", "two"],
        ["model", "one"],
        ["model", "two"],
    ]
    assert [row[-1] for row in tables["clip"].rows[:2]] == ["", "2 [2, 2]"]  # they took turns, and the noise was shared
    assert tables["model"].rows[0][0] == "10 tokens and 2 s: model"
    assert tables["memory"].header == ["memory", "bundle", "value", "unit", "times one [95 %]"]
    assert tables["memory"].rows[1][2:] == ["150", "MB", "1"]
    alone = {table.header[0]: table for table in tables_of(record_of())}
    assert alone["clip"].header == ["clip", "n", "p50", "p90", "p95", "p99", "max", "unit"]


def test_tables_are_painted():
    table = Table(["x", "p50", "unit"], [["a|b", "1", "ms"], ["longer\x1b[2J", "100", "ms"]])
    assert as_markdown(table).splitlines()[1:3] == ["| --- | --- | --- |", "| a\\|b | 1 | ms |"]
    lines = as_text(table).splitlines()
    assert [line.index("ms") for line in lines[1:]] == [lines[0].index("unit")] * 2
    assert "\x1b" not in as_text(table) + as_markdown(table)


@pytest.mark.parametrize("models", [("m",), ("one", "<two> & \x1b three"), tuple("abcdef")])
def test_the_drawing_is_xml_and_stays_inside(models):
    record = record_of(models)
    element = ET.fromstring(draw(record))
    assert element.tag.endswith("svg")
    assert draw(record) == draw(record)
    picture = chart(record)
    for shape in picture.background:
        assert shape.color in PALETTE
        xs = [shape.x1, shape.x2] if isinstance(shape, Line) else [shape.x, shape.x + getattr(shape, "width", 0)]
        ys = [shape.y1, shape.y2] if isinstance(shape, Line) else [shape.y, shape.y + getattr(shape, "height", 0)]
        assert min(xs) >= 0
        assert max(xs) <= picture.width
        assert min(ys) >= 0
        assert max(ys) <= picture.height
    bars = [shape for shape in picture.background if isinstance(shape, Rect) and shape.opacity == 0.8]
    assert len(bars) == 2 * len(models)  # whole and model
    assert [bar.color for bar in bars[: len(models)]] == [COLORS[n % len(COLORS)] for n in range(len(models))]
    # one model takes twice as long as the one before
    assert len(models) == 1 or bars[1].width == pytest.approx(2 * bars[0].width, rel=1e-6)
    assert any(isinstance(shape, Text) and shape.text == "10 s" for shape in picture.background)


def test_a_run_of_one_round_can_be_drawn():
    record = record_of(series=[Series("m", CLIP, "whole", "ms", (0.0,))])
    ET.fromstring(draw(record))
