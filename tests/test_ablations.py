"""The tables of the model: means against NumPy, runs that are not repeated, a row from end to end, conflicts."""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

import test_whole_path as whole
from conftest import VOCABULARY
from safetensors.torch import load_file, save_file
from tiny_training import make_corpora

from benchmarks import ablations, collection, conflicts, curve, student_bundles, tables, training_runs
from benchmarks.training_runs import Material, claim, minutes_of, remove_working_files
from benchmarks.validation_sets import ValidationSet
from benchmarks.variants import TABLES, choose, parse_assignments, settings_of
from psamf_edge.backends import open_backend
from psamf_edge.bundle import open_bundle
from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.model.teacher import TeacherConfig
from psamf_edge.compile.personality.model import PersonalityEncoder, save_personality
from psamf_edge.compile.training import student as student_training
from psamf_edge.compile.training.validation import SUBSETS
from psamf_edge.errors import UsageError
from psamf_edge.metrics import evaluate_scores
from psamf_edge.plan import Outputs

data, caches, bert, parts = whole.data, whole.caches, whole.bert, whole.parts  # fixtures


# the rows


def test_every_row_has_settings_of_its_own():
    for corpora in ("mosi", "mosei", "both"):
        for table, rows in TABLES.items():
            places = {row.place for row in rows}
            assert len(places) == len(rows)
            assert {row.table for row in rows} == {table}
            settings = [repr((row.kind, settings_of(row, corpora, 0, {}))) for row in rows if not row.same_as]
            assert len(set(settings)) == len(settings)
            assert all(settings_of(row, corpora, 3, {}).seed == 3 for row in rows)


def test_a_row_that_shares_runs_has_their_settings():
    six = choose("students", ["6-blocks"])[0]
    other = choose("distillation", ["all-terms"])[0]
    assert six.place == other.place
    assert settings_of(six, "both", 1, {}) == settings_of(other, "both", 1, {})


def test_the_ablations_are_the_papers():
    changed = {row.name: settings_of(row, "mosi", 0, {}) for row in TABLES["teacher"]}
    words = changed["text-only"]
    assert (words.text_share, words.full_share) == (1.0, 0.0)
    assert not any((words.personality, words.pre_fusion, words.enhanced_fusion, words.l_ps, words.l_clm))
    assert changed["released"].preset_of_model == TeacherConfig.released
    assert not changed["no-pre_fusion"].pre_fusion
    assert changed["no-pre_fusion"].enhanced_fusion
    assert changed["similarity"].alignment_weight == "similarity"


@pytest.mark.parametrize(("table", "where"), [("students", "the table students"), (None, "any table")])
def test_an_unknown_row_is_named(table, where, tmp_path, capsys):
    with pytest.raises(UsageError, match=rf"There is no row 'nine' in {where}; the rows are .*3-blocks"):
        choose(table, ["nine"])
    with pytest.raises(SystemExit) as end:
        ablations.main(["--runs", str(tmp_path), "--collect", "--only", "nine"])
    assert end.value.code == UsageError.exit_code
    assert "There is no row 'nine'" in capsys.readouterr().err


def test_settings_of_all_rows():
    given = parse_assignments(["teacher.epochs=4", "student.text_epochs=2", "teacher.batch=8"])
    drawn, student = choose("teacher", ["drawn"])[0], choose("distillation", ["no-score"])[0]
    assert (settings_of(drawn, "mosi", 0, given).epochs, settings_of(drawn, "mosi", 0, given).batch) == (4, 8)
    assert settings_of(student, "mosi", 0, given).text_epochs == 2
    assert settings_of(student, "mosi", 0, {"student": ("distil_score=2",)}).distil_score == 0.0  # the row's own counts
    for wrong in ("epochs=4", "nobody.epochs=4", "teacher.epochs"):
        with pytest.raises(UsageError, match=r"--set takes teacher\.NAME=VALUE"):
            parse_assignments([wrong])


# collection


def metrics_of(seed, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = np.round(rng.uniform(-3, 3, 50), 1)
    return evaluate_scores(np.clip(labels + rng.normal(0, noise, 50), -3, 3), labels)


def write_run(runs, place, seed, encoder="some-bert", sessions=1, minutes=2.0, student=False, **settings):
    folder = runs / place / str(seed)
    folder.mkdir(parents=True)
    names = {f"composed mosi {name}" if student else f"mosi {name}": i for i, name in enumerate(SUBSETS)}
    metrics = {name: metrics_of(100 * seed + i) for name, i in names.items()}
    if student:
        metrics |= {"text mosi": metrics_of(100 * seed + 50), "audio emodb": {"n": 4, "sign_accuracy": 0.5 + seed / 10}}
    record = {
        "date": f"2026-01-0{seed + 1}", "settings": {"seed": seed, "epochs": 2, "text_blocks": 3, **settings},
        "versions": {"torch": "2"}, "data": {"text": {"mosi": 10}}, "metrics": metrics,
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(record))
    (folder / "run.json").write_text(
        json.dumps({"encoder": encoder, "sessions": sessions, "machine": {"cpu": "a", "date": "today"}})
    )
    (folder / "log.csv").write_text(f"teacher,50,loss,1.0\ndone,0,minutes,{minutes}\n")
    return folder, metrics


def test_means_and_deviations_are_numpys(tmp_path):
    written = [write_run(tmp_path, "teacher/drawn", seed, minutes=1.0 + seed)[1] for seed in (0, 1, 2)]
    (row,) = collection.collect(tmp_path)
    assert (row["table"], row["name"], row["corpora"], row["n"], row["seeds"]) == (
        "teacher", "drawn", "mosi", 3, [0, 1, 2],
    )  # fmt: skip
    assert list(row["metrics"]["mosi"]) == list(SUBSETS)
    for subset, values in row["metrics"]["mosi"].items():
        assert values["samples"] == 50
        for key in tables.METRICS:
            each = [metrics[f"mosi {subset}"][key] for metrics in written]
            # four digits are kept
            assert values[key]["mean"] == pytest.approx(np.mean(each), abs=5.1e-5)
            assert values[key]["sd"] == pytest.approx(np.std(each, ddof=1), abs=5.1e-5)
    assert row["minutes"] == 2.0
    assert (row["encoder"], row["data"]) == ("some-bert", {"text": {"mosi": 10}})
    assert row["settings"] == {"epochs": 2, "text_blocks": 3}
    assert row["dates"] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    table = tables.ablations([row], "teacher", "mosi").splitlines()
    assert table[0].startswith("| MOSI validation (50), trained on MOSI (10) | text encoder | seeds | MAE, words |")
    mae = row["metrics"]["mosi"]["text"]["mae"]
    assert table[2].startswith(f"| PSA-MF as drawn | some-bert | 3 | {mae['mean']:.3f} ± {mae['sd']:.3f} |")
    assert tables.ablations([row], "teacher", "both") == ""


def test_one_seed_has_no_deviation_and_an_unfinished_one_does_not_count(tmp_path):
    write_run(tmp_path, "teacher-both/text-only", 4, sessions=2, **choose("teacher", ["text-only"])[0].changes)
    (tmp_path / "teacher-both" / "text-only" / "5").mkdir()
    (tmp_path / "teacher" / "drawn").mkdir(parents=True)
    (row,) = collection.collect(tmp_path)
    assert (row["n"], row["corpora"], row["minutes"]) == (1, "both", None)  # the time of an interrupted run is unknown
    assert list(row["metrics"]["mosi"]) == ["text"]  # what it was trained for
    assert row["metrics"]["mosi"]["text"]["mae"]["sd"] is None
    assert "±" not in tables.ablations([row], "teacher", "both")


def test_a_students_words_are_the_real_ones(tmp_path):
    written = [write_run(tmp_path, "distillation/no-teacher", seed, student=True)[1] for seed in (0, 1)]
    (row,) = collection.collect(tmp_path)
    for subset, name in (("text", "text mosi"), ("all", "composed mosi all")):
        mean = np.mean([metrics[name]["mae"] for metrics in written])
        assert row["metrics"]["mosi"][subset]["mae"]["mean"] == pytest.approx(mean, abs=5.1e-5)
    assert row["alone"]["audio emodb"]["mean"] == pytest.approx(0.55)
    assert "| 2 | 0.550 ± 0.071 |" in tables.ablations([row], "distillation", "mosi")


def test_an_undefined_metric_stays_undefined():
    assert collection.spread_of([{"corr": 0.5}, {"corr": None}]) == {"corr": None}
    assert tables.cell(None) == "-"


@pytest.mark.parametrize(("change", "what"), [({"epochs": 3}, "settings"), ({"encoder": "other"}, "text encoder")])
def test_seeds_of_a_row_differ_in_the_seed_alone(tmp_path, change, what):
    write_run(tmp_path, "teacher/drawn", 0)
    write_run(tmp_path, "teacher/drawn", 1, **change)
    with pytest.raises(UsageError, match=f"differ in {what}"):
        collection.collect(tmp_path)


def test_a_setting_may_be_younger_than_a_run(tmp_path):
    write_run(tmp_path, "teacher/drawn", 0)
    write_run(tmp_path, "teacher/drawn", 1, invented_since=0.0)
    assert collection.collect(tmp_path)[0]["settings"]["invented_since"] == 0.0


def test_a_run_of_another_row_is_refused(tmp_path):
    write_run(tmp_path, "teacher/released", 0, preset="drawn")
    with pytest.raises(UsageError, match=r"released.0 is no run of the row released: its preset is 'drawn'"):
        collection.collect(tmp_path)


def test_a_torn_record_is_named(tmp_path):
    folder, _ = write_run(tmp_path, "teacher/drawn", 0)
    (folder / "training.json").write_text("{")
    with pytest.raises(UsageError, match=r"training\.json is not valid JSON"):
        collection.collect(tmp_path)


def test_rows_of_more_seeds_outlive_their_folders(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "a", "teacher/drawn", seed)
    write_run(tmp_path / "a", "teacher/no-l_ps", 0, l_ps=0.0)
    write_run(tmp_path / "b", "teacher/drawn", 2)
    write_run(tmp_path / "b", "teacher/no-l_ps", 2, l_ps=0.0)
    write_run(tmp_path / "b", "teacher/released", 0, preset="released")
    said = []
    rows = collection.merge(collection.collect(tmp_path / "a"), collection.collect(tmp_path / "b"), said.append)
    assert [(row["name"], row["seeds"]) for row in rows] == [("drawn", [0, 1]), ("released", [0]), ("no-l_ps", [2])]
    assert said == ["mosi/teacher/drawn: the results of 2 seeds stay, 1 are here"]


def test_collecting_nothing_writes_no_row(tmp_path):
    ablations.main(["--runs", str(tmp_path), "--collect", "--results", str(tmp_path / "results")])
    assert json.loads((tmp_path / "results" / "ablations.json").read_text()) == {"rows": []}
    assert not (tmp_path / "results" / "students.svg").exists()


# runs


def test_a_folder_is_one_processs(tmp_path):
    with claim(tmp_path / "run") as first:
        with claim(tmp_path / "run") as second:
            assert (first, second) == (True, False)
        with claim(tmp_path / "other") as other:
            assert other
    with claim(tmp_path / "run", wait=True) as again:
        assert again


def test_working_files_go_and_results_stay(tmp_path):
    kept = ("training.json", "run.json", "personality.safetensors", "personality.json", "teacher.safetensors")
    gone = ("made-of.json", "speech.npz", "faces-valid.npz", "personality-valid-mosi.npz", "text-stage.safetensors")
    for name in (*kept, *gone):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    remove_working_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


@pytest.fixture(scope="module")
def command(data, caches, bert, parts, tmp_path_factory):
    """The command on tiny data, its features there already: f(*arguments). Its runs: f.runs, f.results."""
    folder = tmp_path_factory.mktemp("ablations")
    runs, results, personality = folder / "runs", folder / "results", folder / "personality"
    torch.manual_seed(0)
    config = BertConfig(vocabulary=len(VOCABULARY) + 4, width=32, heads=2, feed_forward=64, blocks=1, positions=128)
    save_personality(PersonalityEncoder(config), personality, {})
    shutil.copytree(caches, runs / "features")
    (data / "faces").mkdir()
    np.savez(data / "faces" / "fer2013_valid.npz", images=np.zeros((0, 48, 48), np.uint8), labels=[], classes=["happy"])
    quick = ["teacher.epochs=2", "teacher.batch=16", "teacher.max_tokens=32", "teacher.text_lr=2e-3"]
    quick += ["teacher.new_lr=2e-3", "teacher.average_decay=0.9", "student.max_tokens=32", "student.text_blocks=2"]
    quick += ["student.text_epochs=1", "student.voice_steps=10", "student.fusion_epochs=1", "student.batch=16"]

    def run(*arguments):
        common = {"runs": runs, "data": data, "bert": bert, "encoder": "tiny", "personality": personality,
                  "parts": parts, "results": results, "threads": 1, "device": "cpu", "seeds": 1}  # fmt: skip
        given = [f"--{name}={value}" for name, value in common.items()] + [f"--set={setting}" for setting in quick]
        ablations.main([*given, *arguments])
        return {row["name"]: row for row in json.loads((results / "ablations.json").read_text())["rows"]}

    run.runs, run.results = runs, results
    return run


def refuse(*arguments, **options):
    raise AssertionError("a finished stage was repeated")


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


def test_a_row_from_end_to_end(command, monkeypatch, capsys):
    only = ("--table", "distillation", "--only", "all-terms")
    folder = command.runs / "distillation" / "all-terms" / "0"
    with monkeypatch.context() as patch:
        patch.setattr(student_training, "train_voice", interrupt)
        with pytest.raises(KeyboardInterrupt):
            command(*only)
    assert (command.runs / "teacher" / "drawn" / "0" / "training.json").is_file()  # its teacher came first
    assert not (command.results / "ablations.json").exists()
    assert (folder / "speech.npz").stat().st_nlink == 2  # another name for the one that all share

    monkeypatch.setattr(training_runs, "train_psamf", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(student_training, "train_text", refuse)  # it goes on where it stopped
        rows = command(*only)
    assert set(rows) == {"drawn", "all-terms"}
    row = rows["all-terms"]
    assert (row["n"], row["encoder"], row["minutes"]) == (1, "tiny", None)
    assert row["data"]["text"] == {"mosi": 96}
    assert set(row["metrics"]["mosi"]) == set(SUBSETS)
    assert row["metrics"]["mosi"]["text"]["samples"] == 96
    assert row["settings"]["text_blocks"] == 2
    assert rows["drawn"]["minutes"] is not None
    assert minutes_of(command.runs / "teacher" / "drawn" / "0") is not None
    assert "all terms" in capsys.readouterr().out
    assert not (folder / "speech.npz").exists()
    assert (command.runs / "features" / "speech.npz").is_file()

    with monkeypatch.context() as patch:
        patch.setattr(student_training, "train_voice", refuse)  # all students of a seed have its voice
        other = command("--table", "distillation", "--only", "no-score")["no-score"]
    assert other["minutes"] is None  # it was not all of a training
    assert other["n"] == 1
    rows["no-score"] = other

    monkeypatch.setattr(training_runs, "train_student", refuse)
    assert command(*only) == rows  # and finished it is not repeated
    with pytest.raises(SystemExit):
        command(*only, "--set=student.text_epochs=3")
    assert "was trained with other settings: text_epochs (1 there, 3 now)" in capsys.readouterr().err


def test_a_student_is_compiled_measured_and_timed(command, tiny_bundle, monkeypatch):
    compiled = []

    def compile_tiny(weights, output, target, precision, force, quality):  # a real export takes ten seconds
        compiled.append((weights.name, precision))
        shutil.copytree(tiny_bundle.path, output, dirs_exist_ok=True)
        return open_bundle(output)

    monkeypatch.setattr(student_bundles, "compile_bundle", compile_tiny)
    monkeypatch.setattr(student_bundles, "ROUNDS", 2)
    row = command("--table", "students", "--only", "3-blocks")["3-blocks"]
    assert row["settings"]["text_blocks"] == 3
    for precision in ("int8", "fp32"):
        values = row["bundles"][precision]
        assert (values["n"], values["latency_ms"]["n"]) == (1, 2)
        assert values["metrics"]["mosi"]["samples"] == 96
    assert (command.results / "students.svg").is_file()
    times = (command.runs / "students" / "latency.json").read_bytes()
    command("--table", "students", "--only", "3-blocks")
    assert compiled == [("0", "int8"), ("0", "fp32")]  # nothing twice
    assert (command.runs / "students" / "latency.json").read_bytes() == times
    folder = command.runs / "students" / "3-blocks" / "0"
    measured = json.loads((folder / "bundles.json").read_text())

    # trained anew, with another result
    weights = load_file(folder / "student.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "student.safetensors")
    stale = command("--collect")["3-blocks"]
    assert "bundles" not in stale  # no figures of other weights
    anew = command("--table", "students", "--only", "3-blocks")["3-blocks"]
    assert len(compiled) == 4
    assert anew["bundles"]["int8"]["latency_ms"]["n"] == 2
    assert (command.runs / "students" / "latency.json").read_bytes() != times
    assert json.loads((folder / "bundles.json").read_text())["weights"] != measured["weights"]

    # as an older version left it: without a key
    del measured["weights"]
    (folder / "bundles.json").write_text(json.dumps(measured))
    assert "bundles" in command("--collect")["3-blocks"]  # nothing speaks against it
    command("--table", "students", "--only", "3-blocks")
    assert len(compiled) == 6
    with claim(folder):  # another process is at it, and needs them
        student_bundles.measure_run(folder, [], keep=False)
        assert len(list(folder.glob("*.psamf"))) == 2
    student_bundles.measure_run(folder, [], keep=False)
    assert not list(folder.glob("*.psamf"))
    assert (folder / "bundles.json").is_file()


def test_training_wants_its_material(tmp_path, capsys):
    with pytest.raises(SystemExit):
        ablations.main(["--runs", str(tmp_path), "--data", str(tmp_path)])
    assert "Training needs --bert, --personality" in capsys.readouterr().err


def test_another_process_is_not_disturbed(tmp_path):
    row = choose("teacher", ["drawn"])[0]
    material = Material(tmp_path, tmp_path, "bert", "bert", tmp_path, tmp_path)
    said = []
    with claim(material.folder(row, 0)):
        assert not training_runs.train(row, 0, material, said.append)
        student = choose("distillation", ["all-terms"])[0]
        assert not training_runs.train(student, 0, material, said.append)  # whose teacher is not ready
    assert len(said) == 2
    assert all("by another process" in line for line in said)


# students


def test_a_bundle_is_measured_and_timed(tiny_bundle):
    sets = [
        ValidationSet("text mosi", "text", ["good", "a bad day", "tea"], np.array([1.0, -2.0, 0.0]), np.full(3, ""))
    ]
    measured = student_bundles.measure_bundle(tiny_bundle, sets)
    assert measured["metrics"]["mosi"]["samples"] == 3
    assert measured["metrics"]["mosi"]["mae"] >= 0
    assert measured["size_mb"] > 2  # the face models alone
    times = student_bundles.time_bundles({"one": tiny_bundle, "two": tiny_bundle}, rounds=2)
    assert list(times) == ["one", "two"]
    assert all(values["n"] == 2 and values["p50"] > 0 for values in times.values())


def student_rows(corpora=("mosi",)):
    rows = []
    for blocks in (6, 3, 5, 4):
        bundles = {
            precision: {
                "n": 5, "size_mb": size + 4.0 * blocks, "latency_ms": {"p50": 0.9 * blocks, "p95": 1.2 * blocks},
                "metrics": {c: {"samples": 9, "mae": {"mean": 1.2 - 0.06 * blocks, "sd": 0.01},
                                "acc2_non0": {"mean": 0.8, "sd": None}} for c in corpora},
            }
            for precision, size in (("int8", 10.0), ("fp32", 40.0))
        }  # fmt: skip
        rows.append({
            "table": "students", "name": f"{blocks}-blocks", "title": f"{blocks} text blocks", "corpora": "mosi",
            "n": 5, "settings": {"text_blocks": blocks}, "metrics": {}, "bundles": bundles,
        })  # fmt: skip
    return rows


def test_the_curve_is_small_and_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    rows = student_rows(("mosi", "mosei"))
    for name in ("a", "b"):
        assert curve.plot(rows, tmp_path / f"{name}.svg")
    content = (tmp_path / "a.svg").read_bytes()
    assert content == (tmp_path / "b.svg").read_bytes()
    assert len(content) < 60_000
    text = " ".join(ElementTree.fromstring(content).itertext())
    for label in ("MAE, MOSI validation", "MAE, MOSEI validation", "bundle (MB)", "int8", "fp32"):
        assert label in text
    assert [point["blocks"] for point in curve.points_of(rows, "mosi", "int8")] == [3, 4, 5, 6]


def test_a_student_without_a_time_is_no_point(tmp_path):
    rows = student_rows()
    rows[0]["bundles"]["int8"]["latency_ms"] = None
    assert [point["blocks"] for point in curve.points_of(rows, "mosi", "int8")] == [3, 4, 5]
    assert "| 6 text blocks, int8 | 5 | 0.840 ± 0.010 | 0.800 | 34.0 | - | - |" in tables.bundle_table(rows)
    assert not curve.plot([], tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_bundles_and_times_are_collected(tmp_path):
    for seed in (0, 1):
        folder, _ = write_run(tmp_path, "distillation/all-terms", seed, student=True, text_blocks=6)
        metrics = {"mosi": {**metrics_of(seed), "samples": 50}}
        (folder / "bundles.json").write_text(json.dumps({"int8": {"size_mb": 20.0, "metrics": metrics}}))
    (tmp_path / "students").mkdir()
    (tmp_path / "students" / "latency.json").write_text(
        json.dumps({"machine": {"cpu": "a"}, "latency_ms": {"6-blocks int8": {"p50": 5.0, "p95": 6.0}}})
    )
    distilled, six = collection.collect(tmp_path)
    assert "bundles" not in distilled
    assert six["bundles"]["int8"]["latency_ms"]["p50"] == 5.0
    each = [metrics_of(seed)["mae"] for seed in (0, 1)]
    assert six["bundles"]["int8"]["metrics"]["mosi"]["mae"]["mean"] == pytest.approx(np.mean(each), abs=5.1e-5)


# conflicts


class Listener:
    """Hears half of feature 0, which is the valence, and sees none of it; words are worth two."""

    def run(self, features):
        words = {5: 2.0, 6: -2.0}[int(features.ids[1])]
        heard = 0.0 if features.audio is None else 0.5 * float(features.audio[:, 0].mean())
        return Outputs(words + heard, 0.9, {})


def test_conflicts_say_how_far_and_which_way():
    text, speech, faces = make_corpora(60)
    rows = {(r["words"], r["with"], r["company"]): r for r in conflicts.measure(Listener(), text, speech, faces)}
    assert len(rows) == 2 * 3 * 3
    row = rows["positive", "voice", "negative"]
    assert (row["relation"], row["direction"], row["right_share"]) == ("conflicts", "right", 1.0)
    assert row["words_alone"] == 2.0
    assert row["n"] == (text.labels > 0).sum()
    assert -1.0 <= row["shift"] <= -0.8  # half the valence of angry, disgust, fear and sad
    assert row["together"] == pytest.approx(2.0 + row["shift"], abs=1e-4)
    # the label of words 2 and a voice v is their mean, weighted 0.6 and 0.25
    valence = 2 * row["shift"]
    assert row["label_shift"] == pytest.approx((0.6 * 2 + 0.25 * valence) / 0.85 - 2, abs=1e-3)
    assert row["interval"][0] <= row["shift"] <= row["interval"][1]
    assert rows["negative", "voice", "positive"]["shift"] == pytest.approx(0.9)
    assert rows["negative", "face", "positive"]["direction"] == "unclear"
    assert rows["negative", "face", "positive"]["right_share"] == 0.0
    agreeing = rows["positive", "voice", "positive"]
    assert agreeing["relation"] == "agrees"
    assert "direction" not in agreeing
    assert rows["negative", "voice", "neutral"]["shift"] == 0.0


def test_the_interval_is_that_of_a_mean():
    shifts = np.random.default_rng(0).normal(-0.3, 1.0, 400)
    row = conflicts.row_of((1, "voice", -1), np.column_stack([np.ones(400), shifts, np.zeros(400)]))
    half = 1.96 * shifts.std(ddof=1) / 20
    assert row["interval"] == pytest.approx([shifts.mean() - half, shifts.mean() + half], abs=1e-4)
    assert row["direction"] == "right"
    assert conflicts.row_of((1, "voice", -1), np.array([[1.0, 0.4, 0.0]]))["interval"] is None
    assert conflicts.direction(-0.3, 0.1) == "wrong"


def test_conflicts_through_a_bundle(tiny_bundle):
    text, speech, faces = make_corpora(6)
    with open_backend(tiny_bundle, "cpu") as backend:
        rows = conflicts.measure(backend, text, speech, faces)
    assert all(np.isfinite([row["shift"], row["words_alone"]]).all() for row in rows)
    table = tables.conflicts({"mosi": rows})
    assert table.startswith("| MOSI validation: words | with a | n | words alone | negative | neutral | positive |")
    assert table.count("\n") == len(rows) // 3 + 1
