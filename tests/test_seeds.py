"""The benchmarks that are about spread: over the seeds of a recipe, and over the speakers of a voice."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from benchmarks import seeds, voice_speakers
from benchmarks.tables import seeds as seeds_table
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.errors import UsageError

SPEAKERS = [f"ravdess {i:02d}" for i in range(1, 21)]
SPEAKERS += [f"emodb {i:02d}" for i in (3, 8, 9, 10, 11, 12, 13, 14)]


def make_speech(speakers):
    """Two recordings of each emotion by each speaker, whose first feature is above or below zero."""
    rng = np.random.default_rng(0)
    emotions = np.tile(["happy", "angry", "sad"], 2 * len(speakers))
    each = np.repeat(speakers, 6)
    voices = [rng.normal(2.0 if e == "happy" else -2.0, 1.0, (60, 63)).astype(np.float32) for e in emotions]
    return SpeechSet(voices, emotions, np.array([name.split()[0] for name in each]), each)


def test_folds_share_no_speaker_and_leave_none_out():
    folds = voice_speakers.groups(np.array(SPEAKERS))
    assert sorted(name for fold in folds for name in fold) == sorted(SPEAKERS)
    assert folds[-1] == ["emodb 09", "emodb 10", "ravdess 17", "ravdess 18", "ravdess 19", "ravdess 20"]
    assert [sum(name.startswith("ravdess") for name in fold) for fold in folds] == [4] * 5


def test_nobody_is_judged_by_a_voice_that_heard_them(monkeypatch):
    """The training is asked whom it was given; the rows count what they say."""
    speech, asked = make_speech(SPEAKERS), []

    def train(encoder, given, settings, run):
        asked.append(set(given.speakers.tolist()))
        return "task"

    def hear(task, theirs):
        assert not asked[-1] & set(theirs.speakers.tolist())
        assert asked[-1] | set(theirs.speakers.tolist()) == set(SPEAKERS)
        return np.where(theirs.emotions == "happy", 1.0, -1.0)

    monkeypatch.setattr(voice_speakers, "train_voice", train)
    monkeypatch.setattr(voice_speakers, "hear", hear)
    rows = voice_speakers.cross_validate(speech, 2, {"voice_steps": 1})
    assert len(asked) == 10
    assert rows["ravdess all"]["recordings"] == 120
    assert rows["ravdess 17 18 19 20"]["validation"]
    assert not rows["emodb 13"]["validation"]
    assert {row["sign_accuracy"]["mean"] for row in rows.values()} == {1.0}
    assert rows["emodb all"]["auc"] == {"mean": 1.0, "sd": 0.0}


def test_voices_from_end_to_end(monkeypatch, tmp_path, capsys):
    few = ["ravdess 01", "ravdess 02", "ravdess 03", "ravdess 04", "ravdess 17"]
    few += ["emodb 03", "emodb 08", "emodb 11", "emodb 12", "emodb 09"]
    monkeypatch.setattr(voice_speakers, "load_speech", lambda folder, cache: make_speech(few))
    output = tmp_path / "voices.json"
    arguments = ["--data", "data", "--cache", "cache", "--seeds", "1", "--steps", "30", "--output", str(output)]
    voice_speakers.main(arguments)
    record = json.loads(output.read_text())
    assert record["rows"]["ravdess all"]["auc"]["mean"] > 0.9
    assert record["rows"]["ravdess all"]["auc"]["sd"] is None
    assert record["settings"]["voice_steps"] == 30
    assert "| ravdess 17, the validation split | 6 | 2 |" in capsys.readouterr().out


def make_run(folder, seed, **settings):
    folder.mkdir()
    metrics = {"text mosi": {"n": 4, "mae": 0.5}}
    metrics["composed mosi all"] = {"n": 4, "mae": 0.6 + 0.2 * seed, "corr": 0.5, "acc2_non0": 0.75}
    record = {"command": "psamf-edge distill", "data": {"text": {"mosi": 4}}, "settings": {"seed": seed, **settings},
              "metrics": metrics}  # fmt: skip
    (folder / "training.json").write_text(json.dumps(record))
    return folder


def test_seeds_are_gathered_by_precision(monkeypatch, tmp_path):
    runs = [make_run(tmp_path / str(seed), seed, batch=32) for seed in (0, 1)]

    def compiled(run, path, target, precision):
        assert path.suffix == ".psamf", "the compiler takes no other name"
        return SimpleNamespace(path=run)

    def measured(run, sets):
        values = {"mae": 0.70 + 0.02 * int(run.name), "corr": 0.8, "acc2_non0": 0.85, "f1_non0": 0.85}
        return {"model": {}, "text mosi": {"n": 4, **values}}

    monkeypatch.setattr(seeds, "compile_bundle", compiled)
    monkeypatch.setattr(seeds, "measure", measured)
    record = seeds.gather(runs, [])
    assert record["seeds"] == [0, 1]
    assert record["settings"] == {"batch": 32}
    assert record["bundles"]["int8"]["text mosi"]["mae"] == {"mean": 0.71, "sd": 0.0141}
    assert record["composed"]["composed mosi all"]["mae"] == {"mean": 0.7, "sd": 0.1414}
    with pytest.raises(UsageError, match="differ in settings"):
        seeds.gather([runs[0], make_run(tmp_path / "2", 2, batch=64)], [])


def test_the_table_of_seeds_names_every_set():
    values = {"samples": 4, "mae": {"mean": 0.71, "sd": 0.01}, "corr": {"mean": 0.8, "sd": None},
              "acc2_non0": None, "f1_non0": {"mean": 0.85, "sd": 0.0}}  # fmt: skip
    sign = {"samples": 3, "sign_accuracy": {"mean": 0.8, "sd": 0.02}}
    one = {"text mosi": values, "text mosei": values, "audio ravdess": sign, "audio emodb": sign, "face fer2013": sign}
    text = seeds_table(
        {"seeds": [0, 1], "bundles": {"int8": one, "fp32": one}, "composed": {"composed mosi all": values}}
    )
    assert "| words, CMU-MOSI (4) | MAE | 0.710 ± 0.010 | 0.710 ± 0.010 |" in text
    assert "| voice, RAVDESS actors not trained on (3) | valence sign | 0.800 ± 0.020 | 0.800 ± 0.020 |" in text
    assert "| mosi all | 0.710 ± 0.010 | 0.800 | - |" in text
