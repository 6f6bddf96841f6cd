"""The personality encoder: what its data gives away and does not, how texts are cut, what is measured, what is kept."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from bert_files import write_bert
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.personality import evaluation
from psamf_edge.compile.personality.command import personality_command
from psamf_edge.compile.personality.data import (
    DIALOGUE_COLUMNS,
    ESSAY_COLUMNS,
    NAME_MASK,
    TRAITS,
    mask_names,
    own_lines,
    plain,
    read_dialogues,
    read_essays,
    split_rows,
)
from psamf_edge.compile.personality.evaluation import auc, average, measure, score
from psamf_edge.compile.personality.model import PersonalityEncoder, load_personality, save_personality
from psamf_edge.compile.personality.train import PersonalitySettings, read_corpus, train_personality, training_windows
from psamf_edge.compile.personality.vectors import cached_vectors, personality_vectors
from psamf_edge.compile.personality.windows import cut, encode_sentences
from psamf_edge.compile.training.epochs import Run
from psamf_edge.compile.training.log import Log
from psamf_edge.errors import IntegrityError, UsageError
from psamf_edge.words.wordpiece import WordPiece
from tests.conftest import VOCABULARY

REAL = Path(__file__).parents[1].parent / "shared" / "data" / "personality"
WORDS = ["good", "bad", "day", "tea"]
ALL_WORDS = [*VOCABULARY, *WORDS]
WORDPIECE = WordPiece("\n".join(ALL_WORDS).encode())
ENDS = (2, 3)
TINY = BertConfig(vocabulary=len(ALL_WORDS), width=32, heads=2, feed_forward=64, blocks=2, positions=128)
QUIET = Run(Log(None, lambda line: None))


@pytest.fixture(scope="module", autouse=True)
def _few_resamples():
    """A fifth of the bootstrap: two digits of an interval are not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "RESAMPLES", 200)
        yield


def write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def essays(folder: Path, rows: list[tuple]) -> Path:
    return write_csv(folder / "essays.csv", ("id", "text", *ESSAY_COLUMNS), rows)


def dialogues(folder: Path, rows: list[tuple]) -> Path:
    columns = ("characters", "raw_text", "scene_id", *DIALOGUE_COLUMNS)
    return write_csv(folder / "friends_persona.csv", columns, rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An untrained BERT as Hugging Face writes it, with its vocabulary."""
    return write_bert(tmp_path_factory.mktemp("bert"), TINY, ALL_WORDS)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Essays and dialogues whose traits can be read off one word: all 1 with "good", all 0 with "bad"."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def sentence(good: bool) -> str:
        return " ".join(rng.permutation(["good" if good else "bad", "day", "tea"])) + ". "

    essays(folder, [(i, sentence(i % 2) * 6, *[i % 2] * 5) for i in range(80)])
    lines = [f"<b>Ann Lee</b>: {sentence(i % 2)}<br><br><b>Bo</b>: {sentence(not i % 2)}<br><br>" for i in range(40)]
    dialogues(folder, [("Ann Lee", line, f"01_e{i:02d}_c01(0)", *[bool(i % 2)] * 5) for i, line in enumerate(lines)])
    return folder


@pytest.fixture(scope="module")
def trained(data, checkpoint, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("personality")
    return out, train_personality(data, checkpoint, out, LEARNABLE, QUIET)


# both blocks and large steps: the toy is learnt in a second
LEARNABLE = PersonalitySettings(
    epochs=6, trained_blocks=2, encoder_lr=3e-3, head_lr=3e-3, average_decay=0.9, max_tokens=24, min_tokens=8
)


# --- data


def test_labels_come_in_the_order_of_the_traits(tmp_path):
    path = write_csv(tmp_path / "e.csv", ("NEU", "AGR", "text", "id", "OPN", "CON", "EXT"), [(0, 1, "x", "a", 1, 0, 0)])
    assert dict(zip(TRAITS, read_essays(path).labels[0], strict=True)) == {
        "openness": 1, "conscientiousness": 0, "extraversion": 0, "agreeableness": 1, "neuroticism": 0,
    }  # fmt: skip
    row = ("Ann", "<b>Ann</b>: Hi.", "01_e02_c03(1) ", True, False, False, False, True)
    assert read_dialogues(dialogues(tmp_path, [row])).labels.tolist() == [[1, 0, 0, 0, 1]]


def test_markup_entities_and_blank_essays(tmp_path):
    text = "<p>One &amp; two</p>\n three < four <b>five</b>"
    read = read_essays(essays(tmp_path, [("a", text, *"00000"), ("b", " <br> ", *"11111")]))
    assert read.texts == ["One & two three < four five"]
    assert read.left_out == 1
    assert read.groups.tolist() == ["a"]


def test_only_the_character_speaks_and_no_name_is_left():
    scene = (
        "<b>s01_e01_c01(0) for Ann Green</b><br><br><b>Ann Green</b>: (to Bo) Hi Bo, Ann here, green with envy.<br><br>"
        "[Bo and Ann exit.]<br><br><b>Bo</b>: Hi Ann.<br><br>(Ann sits<br><br><b>ann green</b>: I [laughs] know!<br>"
    )
    own = own_lines(scene, "Ann Green ")
    assert own == "Hi Bo, Ann here, green with envy. I know!"
    # "green" is also a colour here, so it names nobody; a nickname goes with the names
    assert mask_names([own, "ANN's Pheebs"], ["Ann Green", "Bo"]) == [
        f"Hi {NAME_MASK}, {NAME_MASK} here, green with envy. I know!",
        f"{NAME_MASK}'s {NAME_MASK}",
    ]


def test_a_name_is_text_and_no_pattern(tmp_path):
    row = ("A.*|(", "<b>A.*|(</b>: Hi there.", "01_e02_c03", *["True"] * 5)
    assert read_dialogues(dialogues(tmp_path, [row])).texts == ["Hi there."]


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (("id", "text", "OPN"), [("a", "x", 1)], "lacks the columns AGR, CON, EXT, NEU"),
        (("id", "text", *ESSAY_COLUMNS), [("a", "x", 1, 0, 2, 0, 1)], "EXT is '2' in row 1; a label must be one of"),
        (("id", "text", *ESSAY_COLUMNS), [("a", "x", 1)], "the row is too short"),
        (("id", "text", *ESSAY_COLUMNS), [("a", "  ", *"00000")], "no row with text"),
        (("id", "text", *ESSAY_COLUMNS), [], "no row with text"),
        (("id", "text", *ESSAY_COLUMNS), [("a", "x" * (1 << 21), *"00000")], "is no UTF-8 CSV file"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_a_sentence(tmp_path, columns, rows, message):
    with pytest.raises(UsageError, match=message):
        read_essays(write_csv(tmp_path / "essays.csv", columns, rows))


def test_missing_files_junk_and_odd_scenes(tmp_path):
    with pytest.raises(UsageError, match=r"essays\.csv is missing"):
        read_essays(tmp_path / "essays.csv")
    (tmp_path / "essays.csv").write_bytes(b"id,text,OPN,CON,EXT,AGR,NEU\na,\xff\xfe,1,1,1,1,1\n")
    with pytest.raises(UsageError, match="no UTF-8 CSV file"):
        read_essays(tmp_path / "essays.csv")
    with pytest.raises(UsageError, match="must look like"):
        read_dialogues(dialogues(tmp_path, [("Ann", "<b>Ann</b>: Hi.", "pilot", *["True"] * 5)]))


def test_split_keeps_groups_whole_and_every_row_once():
    groups = np.array([f"scene{i // 3}" for i in range(300)])
    rows = split_rows(groups, seed=4)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(300))
    assert {name: len(part) for name, part in rows.items()} == {"train": 240, "valid": 30, "test": 30}
    owners = [set(groups[part]) for part in rows.values()]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 100
    again, other = split_rows(groups, 4), split_rows(groups, 5)
    assert all((rows[k] == again[k]).all() for k in rows)
    assert set(rows["test"]) != set(other["test"])
    with pytest.raises(UsageError, match="at least 10"):
        split_rows(np.array(["one", "two"]), 0)


# --- windows


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab .!?\n'é\u200b中", max_size=200), st.integers(3, 30), st.booleans())
def test_windows_hold_the_whole_text(text, length, join):
    windows = cut(encode_sentences(text, WORDPIECE), length, ENDS, join)
    assert all(3 <= len(w) <= length or len(w) == 2 for w in windows)
    assert all((w[0], w[-1]) == ENDS and w.dtype == np.int64 for w in windows)
    whole = WORDPIECE.encode(text, 10_000).ids[1:-1]
    assert np.concatenate([w[1:-1] for w in windows]).tolist() == whole.tolist()


def test_windows_of_nothing_of_one_and_of_an_endless_sentence():
    assert [w.tolist() for w in cut([], 8, ENDS)] == [list(ENDS)]
    sentences = encode_sentences("good day. bad day. tea!", WORDPIECE)
    assert [len(s) for s in sentences] == [3, 3, 2]
    assert [len(w) for w in cut(sentences, 96, ENDS)] == [10]
    assert [len(w) for w in cut(sentences, 8, ENDS)] == [8, 4]  # whole sentences, as many as fit
    assert [len(w) for w in cut(sentences, 96, ENDS, join=False)] == [5, 5, 4]
    endless = cut(encode_sentences("tea " * 20_000, WORDPIECE), 96, ENDS)
    assert [len(w) for w in endless] == [96] * 212 + [20_000 - 212 * 94 + 2]


def test_training_windows_see_train_rows_only_and_carry_their_labels(data):
    wanted = replace(LEARNABLE, epochs=2)
    corpus = read_corpus(read_essays(data / "essays.csv"), WORDPIECE, wanted)
    windows, labels = training_windows([corpus], ENDS, wanted, np.random.default_rng(0))
    good = np.array([ALL_WORDS.index("good") in window for window in windows])
    assert (labels == good[:, None]).all()
    tokens = sum(len(s) for row in corpus.rows["train"] for s in corpus.sentences[row])
    assert sum(len(w) - 2 for w in windows) == 2 * tokens
    assert len({len(w) for w in windows}) > 3  # cut at random lengths


# --- figures


def test_auc_is_that_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    rng = np.random.default_rng(0)
    for n in (2, 7, 200):
        labels = np.r_[1, 0, rng.integers(0, 2, n - 2)][:, None].repeat(5, axis=1).astype(np.float32)
        probabilities = rng.integers(0, 10, (n, 5)) / 9  # coarse, for ties
        values = measure(probabilities, labels, np.ones(5, bool))
        for trait in range(5):
            p, y = probabilities[:, trait], labels[:, trait]
            assert values[trait, 2] == pytest.approx(roc_auc_score(y, p), abs=1e-12)
            assert values[trait, 1] == pytest.approx(balanced_accuracy_score(y, p > 0.5), abs=1e-12)
    assert np.isnan(auc(np.ones(3), np.ones(3, bool)))


def test_windows_are_averaged_by_text():
    values = np.array([[0.0], [1.0], [0.5]])
    assert average(values, np.array([0, 0, 1])).tolist() == [[0.5], [0.5]]


def test_a_guess_does_not_beat_the_majority_and_an_oracle_does():
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 5)) < 0.6).astype(np.float32)
    groups = np.arange(300).astype(str)
    guess, oracle = score(rng.random((300, 5)), labels, groups), score(labels, labels, groups)
    assert not any(guess[name]["beats_majority"] for name in (*TRAITS, "mean"))
    assert all(oracle[name]["beats_majority"] and oracle[name]["auc"] == 1.0 for name in (*TRAITS, "mean"))
    low, high = guess["mean"]["auc_interval"]
    assert low < 0.5 < high
    # the textbook's standard error of a share of 300, 1.96 * sqrt(.25 / 300) = .057; a bootstrap of 200 is near it
    low, high = guess["openness"]["accuracy_interval"]
    assert high - low == pytest.approx(2 * 0.057, rel=0.15)


def test_intervals_are_of_groups_not_of_rows():
    labels = np.repeat((np.arange(20) % 2).astype(np.float32), 50)[:, None].repeat(5, axis=1)
    right = np.repeat(np.arange(20) < 13, 50)[:, None]  # all sentences of an author alike
    probabilities = np.where(right, labels, 1 - labels)
    wide = score(probabilities, labels, np.repeat(np.arange(20), 50).astype(str))["openness"]["accuracy_interval"]
    narrow = score(probabilities, labels, np.arange(1000).astype(str))["openness"]["accuracy_interval"]
    assert wide[1] - wide[0] > 4 * (narrow[1] - narrow[0])  # sqrt(50) is 7


def test_a_trait_with_one_class_has_no_auc_and_json_has_no_nan():
    table = score(np.full((4, 5), 0.4), np.zeros((4, 5), np.float32), np.array(list("abcd")))
    assert table["openness"]["auc"] is None
    assert table["mean"]["balanced_accuracy_interval"] == [None, None]
    assert table["openness"]["accuracy"] == table["openness"]["majority"] == 1.0
    json.dumps(table, allow_nan=False)


# --- encoder and vectors


def test_training_learns_what_can_be_learnt(trained):
    _, record = trained
    for split in ("valid", "test"):
        for name in ("essays", "dialogues"):
            assert record["metrics"][split][name]["texts"]["mean"]["accuracy"] == 1.0
    assert record["metrics"]["test"]["essays"]["sentences"]["n"] == 8 * 6
    assert record["counts"]["essays"] == {"train": 64, "valid": 8, "test": 8}


def test_a_finished_training_is_not_repeated_and_another_is_refused(trained, data, checkpoint):
    out, record = trained
    before = (out / "personality.safetensors").stat().st_mtime_ns
    assert train_personality(data, checkpoint, out, LEARNABLE, QUIET) == record
    assert (out / "personality.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="other settings or files"):
        train_personality(data, checkpoint, out, replace(LEARNABLE, seed=1), QUIET)


def test_the_lower_blocks_stay_and_the_upper_ones_move(data, checkpoint, tmp_path):
    few = replace(LEARNABLE, trained_blocks=1, epochs=1)
    train_personality(data, checkpoint, tmp_path, few, QUIET)
    before, after = PersonalityEncoder.from_bert(checkpoint, 0.0), load_personality(tmp_path)
    for name, value in before.trunk.state_dict().items():
        moved = not torch.equal(value.half().float(), after.trunk.state_dict()[name])
        # the key bias cancels in the softmax: its gradient is rounding, and the norms' may round back in float16
        if name.startswith("blocks.1.") and name.endswith("weight") and "norm" not in name:
            assert moved, name
        if not name.startswith("blocks.1."):
            assert not moved, name


def test_what_is_loaded_is_frozen(trained):
    encoder = load_personality(trained[0])
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(module.training for module in encoder.modules())
    ids, mask = torch.tensor([[2, 5, 3]]), torch.ones(1, 3)
    quiet = encoder.vector(ids, mask)
    assert torch.equal(encoder.train().vector(ids, mask), quiet)  # a teacher in train mode does not disturb it


def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    encoder = PersonalityEncoder(TINY, dropout=0.1)
    assert save_personality(encoder, tmp_path, {"date": "today"})["date"] == "today"
    for name, value in load_personality(tmp_path).state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name].half().float()), name
    (tmp_path / "personality.safetensors").write_bytes(b"junk")
    with pytest.raises(IntegrityError, match="is not a safetensors file"):
        load_personality(tmp_path)
    (tmp_path / "personality.json").unlink()
    with pytest.raises(UsageError, match="holds no personality"):
        load_personality(tmp_path)


def test_vectors_do_not_depend_on_the_batch_and_are_the_cls_of_the_last_block(trained):
    encoder, rng = load_personality(trained[0]), np.random.default_rng(0)
    ids = [np.r_[2, rng.integers(4, TINY.vocabulary, n), 3] for n in (0, 1, 30, 5, 126, 2, 2, 9, 60)]
    alone, together = personality_vectors(encoder, ids, batch=1), personality_vectors(encoder, ids, batch=7)
    assert alone.shape == (9, TINY.width)
    assert alone.dtype == np.float32
    # padding is masked exactly (exp(-1e4) is 0): what is left is the order of sums in float32, over two blocks
    np.testing.assert_allclose(alone, together, atol=2e-5)
    hidden = encoder.trunk(torch.from_numpy(ids[2])[None], torch.ones(1, len(ids[2])))
    np.testing.assert_allclose(alone[2], hidden[0, 0].numpy(), atol=1e-6)


def test_vectors_of_nothing_of_too_much_and_of_an_empty_text(trained):
    encoder = load_personality(trained[0])
    assert personality_vectors(encoder, []).shape == (0, TINY.width)
    with pytest.raises(UsageError, match="1 to 128 are allowed"):
        personality_vectors(encoder, [np.zeros(129, np.int64)])
    with pytest.raises(UsageError, match="0 to 3 tokens"):
        personality_vectors(encoder, [np.array([2, 5, 3]), np.zeros(0, np.int64)])


def test_a_cache_serves_its_own_texts_and_weights_only(trained, tmp_path, monkeypatch):
    encoder, cache = load_personality(trained[0]), tmp_path / "new" / "p.npz"
    ids = [np.array([2, 5, 6, 3]), np.array([2, 7, 3])]
    first = cached_vectors(encoder, ids, cache)
    with monkeypatch.context() as patch:
        patch.setattr(PersonalityEncoder, "vector", None)  # nothing is computed twice
        assert np.array_equal(cached_vectors(encoder, ids, cache), first)
    for other in ([*ids, ids[0]], ids[::-1], [np.array([2, 5, 6]), np.array([3, 2, 7, 3])]):
        with pytest.raises(UsageError, match="other weights or texts"):
            cached_vectors(encoder, other, cache)
    encoder.trunk.blocks[0].up.bias[0] += 1.0
    with pytest.raises(UsageError, match="other weights or texts"):
        cached_vectors(encoder, ids, cache)


def test_command_line(data, checkpoint, tmp_path):
    arguments = ["--data", data, "--bert", checkpoint, "-o", tmp_path, "--threads", 1, "--device", "cpu"]
    arguments += ["--set", "trained_blocks=0", "--set", "patience=1"]
    done = CliRunner().invoke(personality_command, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    record = json.loads((tmp_path / "personality.json").read_text())
    assert record["settings"]["trained_blocks"] == 0
    log = (tmp_path / "log.csv").read_text()
    assert "personality test essays" in log
    assert "best.loss" in log


def test_windows_that_do_not_fit_are_refused(data, checkpoint, tmp_path):
    with pytest.raises(UsageError, match="it must be at most max_tokens"):
        PersonalitySettings(min_tokens=97)
    with pytest.raises(UsageError, match=r"max_tokens is 129; .* allows at most 128"):
        train_personality(data, checkpoint, tmp_path, PersonalitySettings(max_tokens=129), QUIET)


# --- real data


@pytest.mark.skipif(not REAL.is_dir(), reason="the training data is not on this machine")
def test_real_data_is_read_whole_and_anonymous():
    written, spoken = read_essays(REAL / "essays.csv"), read_dialogues(REAL / "friends_persona.csv")
    assert (len(written), written.left_out) == (2468, 0)
    assert (len(spoken), spoken.left_out) == (711, 0)
    assert spoken.labels.sum(axis=0).tolist() == [462, 330, 312, 405, 332]  # as counted in the file
    talk = set(re.findall(r"\w+|<", " ".join(spoken.texts).lower()))
    assert not talk & {"phoebe", "monica", "rachel", "ross", "chandler", "joey", "geller", "pheebs", "rach", "<"}
    assert plain(" ".join(written.texts[:50])) == " ".join(written.texts[:50])
