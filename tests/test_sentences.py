"""Sentences without labels: files of lines and of columns, cut and counted once."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from psamf_edge.compile.command import DEFAULT_WEIGHTS
from psamf_edge.compile.data.sentences import SentenceFile, cut, read_sentences
from psamf_edge.errors import UsageError
from psamf_edge.words.wordpiece import WordPiece


@pytest.fixture(scope="module")
def wordpiece():
    return WordPiece((DEFAULT_WEIGHTS / "vocab.txt").read_bytes())


def test_texts_are_cut_at_sentence_ends():
    assert list(cut("I like it. So do you! No. What did he say? He said nothing")) == [
        "I like it.",
        "So do you!",
        "What did he say?",
        "He said nothing",
    ]


def test_a_text_without_an_end_is_cut_by_words():
    pieces = list(cut(" ".join(["word"] * 83)))
    assert [len(piece.split()) for piece in pieces] == [40, 40, 3]
    assert [len(piece.split()) for piece in cut(" ".join(["word"] * 82))] == [40, 40]  # two words say little


def test_lines_and_columns_once_each(tmp_path, wordpiece):
    (tmp_path / "a.txt").write_text("It was good fun.\n\nIt was good fun.\n")
    (tmp_path / "b.csv").write_text('id,Utterance\n1,It was good fun.\n2,"Well, it was not."\n3,\n')
    files = [SentenceFile.parse(str(tmp_path / "a.txt")), SentenceFile.parse(f"{tmp_path / 'b.csv'}:Utterance")]
    sentences = read_sentences(files, wordpiece, 96)
    assert [list(ids) for ids in sentences] == [
        list(wordpiece.encode(text).ids) for text in ("It was good fun.", "Well, it was not.")
    ]


@pytest.mark.parametrize("most", [1, 7, 99, 100, 200])
def test_no_more_than_asked_for_spread_over_the_file(tmp_path, wordpiece, most):
    (tmp_path / "a.txt").write_text("".join(f"this is number {i}\n" for i in range(100)))
    everything = read_sentences([SentenceFile(tmp_path / "a.txt")], wordpiece, 96)
    some = read_sentences([SentenceFile(tmp_path / "a.txt")], wordpiece, 96, most)
    assert len(some) == min(most, 100)
    places = [next(i for i, ids in enumerate(everything) if np.array_equal(ids, one)) for one in some]
    assert np.diff(places).max(initial=0) - np.diff(places).min(initial=100) <= 1


def test_sizes_whose_share_is_no_whole_number(tmp_path, wordpiece):
    for size in range(1, 60):
        (tmp_path / "a.txt").write_text("".join(f"this is number {i}\n" for i in range(size)))
        for most in (7, 11):  # 17 of these by sevenths come to 8 in floating-point numbers
            assert len(read_sentences([SentenceFile(tmp_path / "a.txt")], wordpiece, 96, most)) == min(size, most)


@pytest.mark.parametrize(
    ("name", "content", "column", "sentence"),
    [
        ("a.csv", b"id,words\n1,he said so\n", "", "lacks the columns text; its columns are id, words"),
        ("a.csv", b"", "", "lacks the columns text; its columns are none"),
        ("a.txt", b"", "", "adds no sentence of 3 words or more"),
        ("a.txt", b"two words\n", "", "adds no sentence"),
        ("a.txt", b"\xff\xfe\x00 no text at all", "", "is no UTF-8 text"),
    ],
)
def test_files_that_give_nothing(tmp_path, wordpiece, name, content, column, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        read_sentences([SentenceFile.parse(f"{tmp_path / name}{column}")], wordpiece, 96)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"no file .*nothing\.csv.*FILE\.csv:COLUMN"):
        SentenceFile.parse(f"{tmp_path / 'nothing.csv'}:text")
