"""WordPiece against the HF tokenizers library, which shares no code with ours."""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psamf_edge.errors import IntegrityError, UsageError
from psamf_edge.words.wordpiece import MAX_WORD_CHARS, WordPiece

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
VOCABULARIES = [ROOT / "psamf_edge/data/default.psamf/vocab.txt", ROOT / "compile/weights/default/vocab.txt"]
NO_LIMIT = 10**6
RECLASSIFIED = "\u166d\u1734\u1885\u1886"  # in another category since Unicode 9 to 14

ODD = [
    "",
    "   \t\n\r  ",
    "Hello, world!",
    "I loved it 😀👍🏽 so much 👩‍👩‍👧 🥹",
    "Café naïve coöperate ÀÉÎÕÜ ñ ç ø ß œ",
    "İstanbul ISPARTA ıssız I",
    "ΟΔΥΣΣΕΥΣ Σ ΣΑΣ. ς",
    "zero\u200bwidth\u200djoin\ufeffbom\u00adsoft",
    "nul\x00 bell\x07 vt\x0b ff\x0c nel\x85 del\x7f fs\x1c",
    "replace\ufffdment",
    "x" * 10_000,
    "a" * MAX_WORD_CHARS + " " + "a" * (MAX_WORD_CHARS + 1),
    "我喜欢这部电影 東京タワー ひらがな 한국어 \uf900\U00020000",
    "e\u0301 a\u0323\u0307 \u0301 \u0301\u0302 o\u20dd",
    "\u00a0nbsp\u3000wide\u2028line\u2029para\u202fnarrow\u1680ogham",
    "don't can't won't it's 'quoted' \"double\" “curly” — – … ¿qué?",
    "3.14 $5 50% a+b=c x^2 ~`|<>@#&*_{}[]\\/",
    "ﬁne ﬂow Ⅷ ½ ² ™ © € £",
    "user@example.com https://example.com/a?b=c#d",
    "हिन्दी العربية עברית ไทย русский",
    "\ue000private\U000f0000use",
    "##ing ## un##able",
    "...!!!???,,,",
]


@pytest.fixture(scope="module")
def vocab_path():
    return next(path for path in VOCABULARIES if path.exists())


@pytest.fixture(scope="module")
def ours(vocab_path):
    return WordPiece(vocab_path.read_bytes())


@pytest.fixture(scope="module")
def theirs(vocab_path):
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.BertWordPieceTokenizer(str(vocab_path), lowercase=True)


def assert_same(ours, theirs, texts):
    expected = theirs.encode_batch(texts)
    different = [
        (text, got, want.ids)
        for text, want in zip(texts, expected, strict=True)
        if (got := ours.encode(text, NO_LIMIT).ids.tolist()) != want.ids
    ]
    assert not different, f"{len(different)} of {len(texts)} differ, first: {different[:3]}"


def test_odd_strings_match(ours, theirs):
    assert_same(ours, theirs, ODD)


@pytest.mark.parametrize(
    ("file", "column"), [("mosi/labels.csv", "text"), ("mosei/labels.csv", "text"), ("meld/train.csv", "Utterance")]
)
def test_corpora_match(ours, theirs, file, column):
    path = SHARED / "data" / file
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    with path.open(encoding="utf-8", newline="") as rows:
        assert_same(ours, theirs, [row[column] for row in csv.DictReader(rows)])


def test_every_code_point_of_unicode_3_2_matches(ours, theirs):
    """Newer characters are left out: HF's tables (Unicode 8) do not know them, Python's do."""
    points = [
        point
        for point in range(0x110000)
        if unicodedata.ucd_3_2_0.category(chr(point)) not in ("Cn", "Cs", "Co") and chr(point) not in RECLASSIFIED
    ]
    assert len(points) > 90_000
    blocks = [points[i : i + 50] for i in range(0, len(points), 50)]
    assert_same(ours, theirs, [" ".join(f"a{chr(p)}b" for p in block) for block in blocks])


# Without "[": HF reads "[PAD]" in text as the marker, we as characters (test_markers_in_text_are_plain_characters).
@settings(deadline=None)  # the time of one example says nothing on a busy machine
@given(st.text(st.characters(max_codepoint=0x33FF, exclude_characters="[", exclude_categories=("Cs", "Co", "Cn"))))
def test_random_text_matches(ours, theirs, text):
    known = "".join(c for c in text if unicodedata.ucd_3_2_0.category(c) != "Cn" and c not in RECLASSIFIED)
    assert ours.encode(known, NO_LIMIT).ids.tolist() == theirs.encode(known).ids


@settings(deadline=None)
@given(st.lists(st.sampled_from(ODD), max_size=6))
def test_joined_odd_strings_match(ours, theirs, parts):
    text = "".join(parts)
    assert ours.encode(text, NO_LIMIT).ids.tolist() == theirs.encode(text).ids


@settings(deadline=None)
@given(st.text(), st.integers(2, 40))
def test_truncation_keeps_the_first_words_and_sep(ours, text, limit):
    full, cut = ours.encode(text, NO_LIMIT), ours.encode(text, limit)
    assert cut.ids.dtype == np.int64
    assert not full.truncated
    assert cut.truncated == (len(full.ids) > limit)
    assert cut.ids.tolist() == [*full.ids[:-1][: limit - 1], full.ids[-1]]


def test_markers_in_text_are_plain_characters(ours):
    ids = ours.encode("[SEP] [CLS] [PAD]").ids.tolist()
    sep = ids[-1]
    assert ids.count(sep) == 1
    assert ids.count(ids[0]) == 1
    assert ours.pad_id not in ids


def test_lone_surrogate_is_dropped(ours):
    assert ours.encode("a\ud800b").ids.tolist() == ours.encode("ab").ids.tolist()


def test_huge_run_without_a_space_is_cut(ours):
    encoded = ours.encode("." * 300_000, max_tokens=128)
    assert len(encoded.ids) == 128
    assert encoded.truncated


def test_crlf_vocabulary_is_the_same(vocab_path, ours):
    content = vocab_path.read_bytes()
    windows = WordPiece(content.replace(b"\n", b"\r\n"))
    assert len(windows) == len(ours) == 30_522
    assert windows.encode("fine words").ids.tolist() == ours.encode("fine words").ids.tolist()


@pytest.mark.parametrize("vocab", [b"", b"\xff\xfe\x00", b"[PAD]\n[UNK]\n[CLS]\nhello\n"])
def test_bad_vocabulary_is_refused(vocab):
    with pytest.raises(IntegrityError, match="vocabulary"):
        WordPiece(vocab)


def test_limit_without_room_is_refused(ours):
    with pytest.raises(UsageError, match="at least 2"):
        ours.encode("hello", max_tokens=1)
