"""The default's teacher beside its students: what is taken from the log of its training."""

import json

import pytest

from benchmarks import teacher
from benchmarks.tables import beside_teacher


def test_the_last_validation_of_words_counts(tmp_path):
    (tmp_path / "log.csv").write_text(
        "teacher,400,valid.mae.mosi text,0.70222\nteacher,800,valid.mae.mosi text,0.61311\n"
        "teacher,800,valid.mae.mosi all,0.68084\nteacher,800,loss,0.5\n"
    )
    (tmp_path / "teacher.json").write_text('{"width": 64}')
    teacher.main([str(tmp_path), "--results", str(tmp_path / "results")])
    record = json.loads((tmp_path / "results" / "teacher.json").read_text())
    assert record["mae"] == {"mosi text": 0.6131}
    assert record["step"] == 800
    students = {"seeds": [0, 1], "composed": {"composed mosi text": {"mae": {"mean": 0.728, "sd": 0.005}}}}
    assert "| CMU-MOSI | 0.613 | 0.728 ± 0.005 | 0.115 |" in beside_teacher(record, students)


def test_a_log_of_something_else_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("text,400,mosi.mae,0.7\n")
    with pytest.raises(SystemExit, match="has no validation of a teacher"):
        teacher.last_errors(tmp_path / "log.csv")
