"""`psamf-edge evaluate`: reading the CSV, scoring its rows, and the metrics of what came out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_analyzer import FakeAnalyzer

from psamf_edge.cli import main
from psamf_edge.dataset import Row, read_rows
from psamf_edge.errors import IntegrityError, UsageError
from psamf_edge.metrics import evaluate_scores

KEYS = ["n", "mae", "corr", "acc7", "acc5", "acc2_has0", "acc2_non0", "f1_has0", "f1_non0", "failed"]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def fake(monkeypatch):
    analyzer = FakeAnalyzer()
    monkeypatch.setattr("psamf_edge.cli.options.Analyzer", analyzer.open)
    return analyzer


def run(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


class TestReading:
    def test_cells(self, tmp_path):
        data = write(tmp_path / "d.csv", 'id,clip,text,label\na,x/1.mp4,"He said ""no"", twice\nover",-3\nb,, ,0.2\n')
        assert read_rows(data) == [
            Row(3, "a", tmp_path / "x/1.mp4", 'He said "no", twice\nover', -3.0),
            Row(4, "b", None, None, 0.2),
        ]

    def test_bom_crlf_blank_lines_and_other_columns(self, tmp_path):
        data = write(
            tmp_path / "d.csv", b"\xef\xbb\xbflabel,split,id,text\r\n1,valid,a,caf\xc3\xa9\r\n\r\n-1,test,b,no\r\n"
        )
        assert [(row.id, row.text, row.label) for row in read_rows(data)] == [("a", "café", 1.0), ("b", "no", -1.0)]
        assert [row.id for row in read_rows(data, split="test")] == ["b"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "lacks the column id, label, clip or text"),
            ("id,text\na,b\n", "lacks the column label"),
            ("id,label\na,1\n", "lacks the column clip or text"),
            ("id,text,label\n", "has no rows"),
            ("id,text,label\na,b,1\nc,d,great\n", "line 3: the label 'great'"),
            ("id,text,label\na,b,3.1\n", "line 2: the label '3.1' is no number from -3 to 3"),
            ("id,text,label\na,b,nan\n", "line 2: the label 'nan'"),
            ("id,text,label\na,b,\n", "line 2: the label ''"),
            ("id,text,label\na,b\n", "line 2: the row has not as many cells"),
            ("id,text,label\na,b,1,c\n", "line 2: the row has not as many cells"),
            ('id,text,label\na,"b,1\n', "is not CSV"),
            ('id,text,label\na,"b"c,1\n', "is not CSV"),
            (b"id,text,label\na,\xff\xfe,1\n", "not CSV in UTF-8"),
            (b"id,text,label\na,b\x00c,7\n", "line"),
            (b"\x00\x01\x02\x03", "d.csv"),
            ("id,text,text,label\na,b,c,1\n", "the column text more than once"),
        ],
    )
    def test_malformed_files_are_wrong_use(self, fake, tmp_path, content, message):
        data = write(tmp_path / "d.csv", content)
        with pytest.raises(UsageError, match=message):
            read_rows(data)
        result = run(data)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1
        assert fake.calls == []

    def test_no_such_file_or_split(self, tmp_path):
        with pytest.raises(UsageError, match="No such file"):
            read_rows(tmp_path / "none.csv")
        with pytest.raises(UsageError, match="Is a directory"):
            read_rows(tmp_path)
        data = write(tmp_path / "d.csv", "id,text,label,split\na,b,1,train\n")
        with pytest.raises(UsageError, match="no rows with the split 'dev'"):
            read_rows(data, split="dev")
        with pytest.raises(UsageError, match="no rows with the split ''"):
            read_rows(data, split="")
        with pytest.raises(UsageError, match="lacks the column split"):
            read_rows(write(tmp_path / "e.csv", "id,text,label\na,b,1\n"), split="dev")


DATA = """id,clip,text,label
-3g5yACwYnA_1,,good film,2.4
b,talk.mp4,so bad,-1
c,talk.mp4,,0.5
d,bad.mp4,fine,1
e,,,0
f,,neither,-0.2
"""


class TestScoring:
    def test_metrics_of_what_could_be_scored(self, fake, tmp_path):
        result = run(write(tmp_path / "d.csv", DATA))
        assert result.exit_code == 1
        got = json.loads(result.stdout)
        assert list(got) == KEYS
        assert got == {**evaluate_scores([1.5, -1.5, 0.0, 0.0], [2.4, -1.0, 0.5, -0.2]), "failed": 2}
        assert "line 5, d:" in result.stderr
        assert "line 6, e: the row has nothing" in result.stderr

    def test_each_row_is_one_utterance_of_a_clip_beside_the_file(self, fake, tmp_path):
        run(write(tmp_path / "d.csv", DATA))
        assert [clip for clip, _ in fake.calls] == [
            None, tmp_path / "talk.mp4", tmp_path / "talk.mp4", tmp_path / "bad.mp4", None
        ]  # fmt: skip
        assert all(arguments["whole"] for _, arguments in fake.calls)
        assert [arguments["text"] for _, arguments in fake.calls] == ["good film", "so bad", None, "fine", "neither"]

    def test_words_stay_out_when_they_are_not_asked_for(self, fake, tmp_path):
        result = run(write(tmp_path / "d.csv", DATA), "--modalities", "audio,face")
        assert json.loads(result.stdout)["failed"] == 4
        assert [arguments["text"] for _, arguments in fake.calls] == [None, None, None]

    def test_predictions(self, fake, tmp_path):
        run(write(tmp_path / "d.csv", DATA), "--predictions", tmp_path / "out.csv")
        rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
        assert [row["id"] for row in rows] == ["-3g5yACwYnA_1", *"bcdef"]  # as they came, to be joined on
        assert [row["score"] for row in rows] == ["1.500000", "-1.500000", "0.000000", "", "", "0.000000"]
        assert [bool(row["error"]) for row in rows] == [False, False, False, True, True, False]
        assert rows[0]["label"] == "2.4"
        assert rows[0]["confidence"] == "0.800000"

    def test_all_well(self, fake, tmp_path):
        result = run(write(tmp_path / "d.csv", "id,text,label\na,good,3\nb,bad,-3\n"), "-q")
        assert (result.exit_code, result.stderr) == (0, "")
        assert json.loads(result.stdout)["mae"] == 1.5

    def test_nothing_could_be_scored(self, fake, tmp_path):
        result = run(write(tmp_path / "d.csv", "id,clip,label\na,bad.mp4,3\n"))
        assert result.exit_code == 1
        assert json.loads(result.stdout) == {"n": 0} | dict.fromkeys(KEYS[1:-1]) | {"failed": 1}

    def test_what_every_row_would_meet_ends_the_run(self, fake, tmp_path):
        fake.error = IntegrityError("text.onnx differs.")
        result = run(write(tmp_path / "d.csv", DATA))
        assert (result.exit_code, result.stdout) == (4, "")
        assert len(fake.calls) == 1

    @pytest.mark.parametrize("predictions", ["no/out.csv", "d.csv", "."])
    def test_predictions_that_cannot_be_written(self, fake, tmp_path, predictions):
        data = write(tmp_path / "d.csv", DATA)
        assert run(data, "--predictions", tmp_path / predictions).exit_code == 2
        assert fake.calls == []
        assert data.read_text() == DATA
