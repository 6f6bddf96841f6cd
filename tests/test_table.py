"""CSV files: each way of being none is one sentence, and csv's own limit is put back."""

import csv

import pytest

from psamf_edge.compile.data.table import open_table
from psamf_edge.compile.data.text import read_text_set
from psamf_edge.errors import UsageError
from psamf_edge.words.wordpiece import WordPiece


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"labels\.csv cannot be read \(No such file or directory\); give a CSV file"),
        (b"", "lacks the columns label, split, text; its columns are none"),
        (b"id,text\n1,so\n", "lacks the columns label, split; its columns are id, text"),
        ("text,label,split\ncaf\u00e9,1,train\n".encode("latin-1"), r"no UTF-8 CSV file \('utf-8' codec"),
        (b"text,label,split\n" + b"a" * (1 << 21) + b",1,train\n", r"no UTF-8 CSV file \(field larger"),
    ],
)
def test_what_is_wrong_with_labels_is_said(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    limit = csv.field_size_limit()
    with pytest.raises(UsageError, match=message):
        read_text_set(path, "train", WordPiece(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nso"), 20)
    assert csv.field_size_limit() == limit


def test_a_long_text_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("\ufefftext\n" + "so " * 60000 + "\n", encoding="utf-8")
    with open_table(tmp_path / "a.csv", ("text",)) as rows:
        assert [len(row["text"]) for row in rows] == [180000]
