"""Distillation: each term against NumPy in float64, what teachers are asked, and which part of a student learns it."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from tiny_training import compose, make_corpora

from psamf_edge.compile.distillation.knowledge import Knowledge, ask, distinct
from psamf_edge.compile.distillation.larger import LargerStudents
from psamf_edge.compile.distillation.library import Library
from psamf_edge.compile.distillation.losses import (
    attention_divergence,
    hidden_distance,
    personality_distance,
    score_distance,
)
from psamf_edge.compile.distillation.settings import DistilSettings
from psamf_edge.compile.distillation.source import open_source
from psamf_edge.compile.distillation.teaching import Teaching, attention_gap, open_teaching, to_strides
from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.model.student import Student, StudentConfig, kept_blocks, save_student
from psamf_edge.compile.model.teacher import Teacher, TeacherConfig, save_teacher
from psamf_edge.compile.personality.model import PersonalityEncoder, load_personality, save_personality
from psamf_edge.compile.personality.vectors import personality_vectors
from psamf_edge.compile.training import reading
from psamf_edge.compile.training.device import Compute, to_tensors
from psamf_edge.compile.training.fusion_stage import draw_subsets, score_batch, set_feature_scales
from psamf_edge.compile.training.objective import Scored, score_objective
from psamf_edge.compile.training.text_stage import score_text_states
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES

BERT = BertConfig(vocabulary=10, width=32, heads=4, feed_forward=64, blocks=4, positions=8)
TERMS = ("score", "hidden", "personality", "composed", "attention")
SETTINGS = DistilSettings(bfloat16=False)
NOTHING = DistilSettings(**{f"distil_{term}": 0.0 for term in TERMS})


@pytest.fixture
def corpora():
    return make_corpora(32)


def make_teacher(corpora, seed=0, **options):
    torch.manual_seed(seed)
    teacher = Teacher(TeacherConfig.drawn(63, len(VISION_FEATURES), bert=BERT, width=16, serial_width=16, **options))
    set_feature_scales(teacher, compose(corpora))
    return teacher.eval().requires_grad_(False)


def vectors_of(sentences):
    """Some vector that depends on the sentence alone."""
    return np.stack([np.random.default_rng(int(ids.sum())).normal(size=32) for ids in sentences]).astype(np.float32)


def make_student(corpora, teacher, text_blocks=3):
    torch.manual_seed(5)
    student = Student.from_teacher(teacher, 63, len(VISION_FEATURES), text_blocks)
    set_feature_scales(student, compose(corpora))
    return student


def score_words(student, corpora, rows):
    ids, mask, labels = to_tensors(words(corpora, rows), torch.device("cpu"))
    hidden = student.trunk(ids, mask)
    return Scored(score_text_states(student, hidden, mask), hidden, mask, rows, labels)


def words(corpora, rows):
    from psamf_edge.compile.data.padding import pad

    return [*pad([corpora[0].ids[i] for i in rows], np.int64), corpora[0].labels[rows][:, None]]


def score_composed(student, corpora, rows):
    samples = compose(corpora, seed=2)
    batch = samples.batch(rows, draw_subsets(len(rows), samples.rng))
    ids, mask = to_tensors(batch.arrays()[:2], torch.device("cpu"))
    hidden = student.trunk(ids, mask)
    output = score_batch(student, batch, hidden, mask)
    return Scored(output, hidden, mask, rows, torch.from_numpy(batch.labels), batch)


# the terms


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_terms_are_their_formulas():
    a, b = random(5, 7, seed=1), random(5, 7, seed=2)
    ta, tb = torch.from_numpy(a).float(), torch.from_numpy(b).float()
    na, nb = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / (na * nb)
    # float32 against float64 on numbers of the order of one: 1e-5 is a hundred roundings
    assert score_distance(ta, tb).item() == pytest.approx(np.abs(a - b).mean(), abs=1e-5)
    assert hidden_distance(ta, tb).item() == pytest.approx((2 - 2 * cosine).mean(), abs=1e-5)
    expected = (1 - cosine + (na / nb - 1) ** 2).mean()
    assert personality_distance(ta, tb).item() == pytest.approx(expected, abs=1e-5)


def test_divergence_is_kullback_and_leiblers():
    p, q = (np.exp(random(4, 6, seed=s)) for s in (1, 2))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    p[3] = 0.0  # a sample without this modality: its weights mean nothing
    valid = np.ones((4, 6))
    valid[3] = 0
    expected = (p[:3] * np.log(p[:3] / q[:3])).sum(axis=1).mean()
    got = attention_divergence(*(torch.from_numpy(x).float() for x in (q, p, valid)))
    assert got.item() == pytest.approx(expected, abs=1e-5)
    nobody = torch.zeros(4, 6)
    assert attention_divergence(torch.from_numpy(q).float(), nobody, nobody).item() == 0.0


def test_equal_models_have_nothing_to_learn():
    x = torch.from_numpy(random(3, 8)).float()
    weights = torch.softmax(x, dim=1)
    assert score_distance(x, x).item() == 0.0
    # a cosine of equal vectors is one within a few roundings of float32
    assert hidden_distance(x, x).item() == pytest.approx(0.0, abs=1e-6)
    assert personality_distance(x, x).item() == pytest.approx(0.0, abs=1e-6)
    assert attention_divergence(weights, weights, torch.ones(3, 8)).item() == pytest.approx(0.0, abs=1e-6)


def test_a_vector_of_zeros_has_a_finite_gradient():
    x = torch.zeros(2, 8, requires_grad=True)
    (hidden_distance(x, torch.ones(2, 8)) + personality_distance(x, torch.ones(2, 8))).backward()
    assert torch.isfinite(x.grad).all()


def test_strides_keep_the_mass():
    weights = torch.softmax(torch.from_numpy(random(2, 19)).float(), dim=1)
    pooled = to_strides(weights, 3)  # 7, 7 and 5 steps
    assert torch.allclose(pooled.sum(dim=1), torch.ones(2))
    assert torch.allclose(pooled[:, 1], weights[:, 7:14].sum(dim=1))
    assert torch.equal(to_strides(weights, 19), weights)


# which blocks, which sentences


def test_kept_blocks_are_spread_and_hold_both_ends():
    assert kept_blocks(6, 6) == [0, 1, 2, 3, 4, 5]
    assert kept_blocks(12, 2) == [0, 11]
    for have in range(2, 13):
        for want in range(2, have + 1):
            kept = kept_blocks(have, want)
            assert len(set(kept)) == want
            assert (kept[0], kept[-1]) == (0, have - 1)


@pytest.mark.parametrize("want", [-1, 1, 5])
def test_too_few_or_too_many_blocks_are_refused(corpora, want):
    with pytest.raises(UsageError, match=r"allows 2 to 4"):
        Student.from_teacher(make_teacher(corpora), 63, 69, want)


def test_a_whole_student_has_the_teachers_blocks(corpora):
    teacher = make_teacher(corpora)
    student = make_student(corpora, teacher, text_blocks=0)
    ids, mask, _ = to_tensors(words(corpora, np.arange(8)), torch.device("cpu"))
    with torch.no_grad():
        hidden = student.eval().trunk(ids, mask)
        output = teacher(
            ids, mask, torch.zeros(8, 1, 63), torch.zeros(8, 1), torch.zeros(8, 1, 69), torch.zeros(8, 1),
            torch.zeros(8, 32),
        )  # fmt: skip
    assert torch.allclose(hidden[:, 0], output.s, atol=1e-5)  # one computation in two orders


def test_sentences_are_read_once():
    sentences = [np.array(x, np.int64) for x in ([2, 5, 3], [2, 3], [2, 5, 3], [2, 3], [2, 6, 3])]
    different, own = distinct(sentences)
    assert [list(ids) for ids in different] == [[2, 5, 3], [2, 3], [2, 6, 3]]
    assert own.tolist() == [0, 1, 0, 1, 2]


def test_vectors_of_another_width_are_brought_to_the_text(corpora):
    teacher = make_teacher(corpora, personality_width=12)

    def narrow(sentences):
        return vectors_of(sentences)[:, :12]

    known = Teaching([teacher], narrow).library.of(corpora[0].ids)
    expected = narrow(corpora[0].ids) @ teacher.fit_personality.weight.numpy().T
    assert np.allclose(known.personality, expected, atol=1e-5)


def test_knowledge_does_not_depend_on_the_batch(corpora):
    teachers = [make_teacher(corpora, 0), make_teacher(corpora, 1)]
    sentences = corpora[0].ids
    one, many = (ask(teachers, sentences, vectors_of(sentences), batch=batch) for batch in (1, 64))
    # sums in another order: float32 roundings through four blocks
    assert np.allclose(one.scores, many.scores, atol=1e-5)
    assert np.allclose(one.cls, many.cls, atol=1e-4)
    each = [ask([teacher], sentences, vectors_of(sentences)).scores for teacher in teachers]
    assert np.allclose(many.scores, np.mean(each, axis=0), atol=1e-5)
    assert not np.allclose(*each, atol=1e-3)


# the objectives


@pytest.mark.parametrize("score", [score_words, score_composed])
def test_without_weights_only_the_labels_count(corpora, score):
    teacher = make_teacher(corpora)
    teaching, student, rows = Teaching([teacher], vectors_of), make_student(corpora, teacher).eval(), np.arange(8)
    objective = (teaching.of_words if score is score_words else teaching.of_composed)(corpora[0].ids)
    scored = score(student, corpora, rows)
    assert torch.equal(objective(scored, NOTHING)[0], score_objective(scored, NOTHING)[0])


@pytest.mark.parametrize(
    ("term", "part"),
    [
        ("score", "fusion.enhanced.output.weight"),
        ("hidden", "trunk.blocks.0.up.weight"),
        ("personality", "fusion.pre_fusion.personality.layers.0.weight"),
    ],
)
def test_each_term_of_words_moves_its_part(corpora, term, part):
    teacher = make_teacher(corpora)
    student = make_student(corpora, teacher)
    objective = Teaching([teacher], vectors_of).of_words(corpora[0].ids)
    moved = gradient(objective, student, corpora, score_words, part, **{f"distil_{term}": 1.0})
    alone = gradient(objective, student, corpora, score_words, part)
    assert not torch.allclose(moved, alone)


@pytest.mark.parametrize(
    ("term", "part"),
    [("composed", "fusion.enhanced.output.weight"), ("attention", "fusion.cross_audio.attention.query.weight"),
     ("attention", "fusion.cross_face.attention.query.weight")],
)  # fmt: skip
def test_each_term_of_composed_samples_moves_its_part(corpora, term, part):
    teacher = make_teacher(corpora)
    student = make_student(corpora, teacher)
    objective = Teaching([teacher], vectors_of).of_composed(corpora[0].ids)
    moved = gradient(objective, student, corpora, score_composed, part, **{f"distil_{term}": 1.0})
    alone = gradient(objective, student, corpora, score_composed, part)
    assert not torch.allclose(moved, alone)


def gradient(objective, student, corpora, score, part, **weights):
    """Of one part, for a batch."""
    student.eval().zero_grad()
    loss, terms = objective(score(student, corpora, np.arange(8)), dataclasses.replace(NOTHING, **weights))
    assert all(torch.isfinite(value) for value in terms.values())
    loss.backward()
    return student.get_parameter(part).grad.clone()


def test_the_rows_are_those_of_the_sentences(corpora):
    """A batch of other rows must be held against what the teacher said of those."""
    teacher = make_teacher(corpora)
    teaching, student = Teaching([teacher], vectors_of), make_student(corpora, teacher).eval()
    objective, rows = teaching.of_words(corpora[0].ids), np.array([7, 3, 11])
    _, terms = objective(score_words(student, corpora, rows), DistilSettings())
    known = teaching.library.of([corpora[0].ids[i] for i in rows])
    own = score_words(student, corpora, rows).output.score[:, 0].detach().numpy()
    assert terms["distil_score"].item() == pytest.approx(np.abs(own - known.scores).mean(), abs=1e-5)


def test_attention_of_the_same_looks_has_no_gap():
    weights = torch.softmax(torch.from_numpy(random(2, 5, 2, 6)).float(), dim=3)  # (B, S, h, T')
    fine = weights[:, 3].repeat_interleave(4, dim=2) / 4  # four steps for one
    assert attention_gap(weights, fine, torch.ones(2, 24)).item() == pytest.approx(0.0, abs=1e-6)


# opening


def write_teacher(folder, corpora, seed=0, personality_seed=0, **options):
    save_teacher(make_teacher(corpora, seed, **options), folder)
    torch.manual_seed(personality_seed)
    save_personality(PersonalityEncoder(BERT), folder, {})
    return folder


def test_teachers_are_opened_with_their_encoder(corpora, tmp_path):
    folders = [write_teacher(tmp_path / str(seed), corpora, seed) for seed in (0, 1)]
    teaching = open_teaching(folders, tmp_path / "cache", Compute())
    known = teaching.library.of(corpora[0].ids)
    assert known.scores.shape == (32,)
    assert known.personality.shape == (32, BERT.width)
    assert not any(p.requires_grad for teacher in teaching.teachers for p in teacher.parameters())


def test_teachers_must_share_their_encoder(corpora, tmp_path):
    folders = [write_teacher(tmp_path / str(seed), corpora, personality_seed=seed) for seed in (0, 1)]
    with pytest.raises(UsageError, match="differ in personality encoder"):
        open_teaching(folders, tmp_path, Compute())


def test_a_folder_without_a_teacher_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no teacher"):
        open_teaching([tmp_path], tmp_path, Compute())


# a larger student as the teacher


def test_a_smaller_student_begins_with_the_blocks_of_the_larger(corpora):
    larger = make_student(corpora, make_teacher(corpora), text_blocks=4)
    smaller = LargerStudents([larger.eval()]).student(63, 69, 3)
    assert smaller.config.bert.blocks == 3
    kept = {"trunk.blocks.0.up.weight": "trunk.blocks.0.up.weight", "trunk.blocks.1.up.weight":
            "trunk.blocks.2.up.weight", "fusion.pre_fusion.block.up.weight": "fusion.pre_fusion.block.up.weight",
            "fusion.enhanced.output.weight": "fusion.enhanced.output.weight"}  # fmt: skip
    for name, of_larger in kept.items():
        assert torch.equal(smaller.get_parameter(name), larger.get_parameter(of_larger)), name


def test_a_copy_has_nothing_to_learn_from_its_original(corpora):
    larger = make_student(corpora, make_teacher(corpora), text_blocks=4).eval()
    source = LargerStudents([larger])
    same, rows = source.student(63, 69, 0).eval(), np.arange(8)
    _, terms = source.of_words(corpora[0].ids)(score_words(same, corpora, rows), DistilSettings())
    for name in ("score", "hidden", "personality"):
        assert terms[f"distil_{name}"].item() == pytest.approx(0.0, abs=1e-5)  # another batch, other roundings
    scored = score_composed(same, corpora, rows)
    assert torch.equal(source.of_composed(corpora[0].ids)(scored, NOTHING)[0], score_objective(scored, NOTHING)[0])


def test_the_kind_of_teacher_is_found(corpora, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", corpora)
    save_student(make_student(corpora, make_teacher(corpora)), tmp_path / "student", torch.float32)
    assert isinstance(open_source([teacher], tmp_path, Compute(), SETTINGS), Teaching)
    assert isinstance(open_source([tmp_path / "student"], tmp_path, Compute(), SETTINGS), LargerStudents)
    with pytest.raises(UsageError, match="distil from one kind"):
        open_source([teacher, tmp_path / "student"], tmp_path, Compute(), SETTINGS)


def test_larger_students_must_share_their_width(corpora, tmp_path):
    for width in (16, 32):
        config = StudentConfig(63, 69, dataclasses.replace(BERT, width=width), width=16)
        save_student(Student(config), tmp_path / str(width), torch.float32)
    with pytest.raises(UsageError, match="text width"):
        open_source([tmp_path / "16", tmp_path / "32"], tmp_path, Compute(), SETTINGS)


# a student that begins elsewhere, and sentences without labels


@pytest.fixture
def narrow_bert(tmp_path):
    """A BERT of another width than the teacher's."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("term", ["hidden", "personality"])
def test_vectors_of_different_widths_are_not_compared(corpora, tmp_path, narrow_bert, term):
    teacher = write_teacher(tmp_path / "teacher", corpora)
    settings = dataclasses.replace(NOTHING, **{f"distil_{term}": 1.0})
    with pytest.raises(UsageError, match=rf"16 numbers in the student with 32 in the teacher.*--set distil_{term}=0"):
        open_source([teacher], tmp_path, Compute(), settings, narrow_bert)


def test_a_student_of_another_width_learns_the_score(corpora, tmp_path, narrow_bert):
    teacher = write_teacher(tmp_path / "teacher", corpora)
    settings = dataclasses.replace(NOTHING, distil_score=1.0)
    source = open_source([teacher], tmp_path, Compute(), settings, narrow_bert)
    student = source.student(63, len(VISION_FEATURES), 2)
    assert (student.config.bert.width, student.config.bert.blocks) == (16, 2)
    _, terms = source.of_words(corpora[0].ids)(score_words(student.eval(), corpora, np.arange(8)), settings)
    assert set(terms) == {"loss", "distil_score"}


def test_a_student_may_begin_where_another_ended(corpora, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", corpora)
    earlier = make_student(corpora, make_teacher(corpora, seed=9), text_blocks=3)
    save_student(earlier, tmp_path / "earlier", torch.float32)
    for directory in (teacher, tmp_path / "earlier"):  # of both kinds of teachers
        source = open_source([directory], tmp_path / directory.name, Compute(), SETTINGS, tmp_path / "earlier")
        student = source.student(63, len(VISION_FEATURES), 0)
        for name in ("trunk.blocks.1.up.weight", "fusion.enhanced.output.weight"):
            assert torch.equal(student.get_parameter(name), earlier.get_parameter(name))


def test_sentences_without_labels_get_the_teachers_scores(corpora, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", corpora)
    sentences = [np.array(ids, np.int64) for ids in ([2, 7, 3], [2, 8, 9, 3])]
    source = open_source([teacher], tmp_path, Compute(), SETTINGS, sentences=sentences)
    (taught,) = source.taught()
    assert source.unlabelled == 2
    assert [list(ids) for ids in taught.ids] == [[2, 7, 3], [2, 8, 9, 3]]
    own = make_teacher(corpora)
    encoder = torch.zeros(2, 32)  # with words alone nothing is shifted by it
    assert np.allclose(taught.labels, ask([own], sentences, encoder.numpy()).scores, atol=1e-5)
    assert open_source([teacher], tmp_path, Compute(), SETTINGS).taught() == []


def test_a_sentence_is_asked_once_and_remembered(tmp_path):
    asked = []

    def answer(sentences):
        asked.extend(sentences)
        numbers = np.array([ids.sum() for ids in sentences], np.float32)
        return Knowledge(numbers, numbers[:, None], -numbers[:, None])

    one, two, three = (np.array(ids, np.int64) for ids in ([2, 5, 3], [2, 3], [2, 9, 9, 3]))
    cache = tmp_path / "deep" / "knowledge.npz"
    library = Library(answer, cache, "a")
    assert library.of([one, two, one]).scores.tolist() == [10, 5, 10]
    assert library.of([three, one]).scores.tolist() == [23, 10]
    assert len(asked) == 3
    again = Library(answer, cache, "a").of([two, three])
    assert (again.scores.tolist(), again.personality.tolist()) == ([5, 23], [[-5], [-23]])
    assert len(asked) == 3
    with pytest.raises(UsageError, match="made by other teachers"):
        Library(answer, cache, "b")


def lengths(*sizes):
    """Different sentences of so many tokens."""
    return [np.r_[2, 10 + number, np.full(size - 3, 5), 3].astype(np.int64) for number, size in enumerate(sizes)]


def test_what_was_asked_before_a_kill_is_kept_and_the_batches_are_those_of_one_call(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 8)
    sentences = lengths(*np.random.default_rng(0).integers(3, 9, 45))
    batches, blocks = [], []

    def answer(asked):
        blocks.append(len(asked))
        if len(blocks) == 4:
            raise KeyboardInterrupt  # what comes next is not done, as after a kill
        batches.extend([asked[row].tobytes() for row in rows] for rows, *_ in reading.by_length(asked, 4, "cpu"))
        numbers = np.array([ids[1] for ids in asked], np.float32)
        return Knowledge(numbers, numbers[:, None], -numbers[:, None])

    with pytest.raises(KeyboardInterrupt):
        Library(answer, tmp_path / "knowledge.npz", "a").of(sentences)
    known = Library(answer, tmp_path / "knowledge.npz", "a").of(sentences)
    assert known.scores.tolist() == [ids[1] for ids in sentences]
    assert blocks == [8, 8, 8, 8, 8, 8, 5]
    assert batches == [
        [sentences[row].tobytes() for row in rows] for rows, *_ in reading.by_length(sentences, 4, "cpu")
    ]


def test_personality_is_read_once_whether_block_by_block_or_all_at_once(corpora, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 8)
    directory, sentences = write_teacher(tmp_path / "teacher", corpora), lengths(7, 4, 5, 8, 3, 4, 6, 8, 5, 4, 3)
    encoder = load_personality(directory)
    sentences = [np.minimum(ids, encoder.config.vocabulary - 1) for ids in sentences]
    vectors = open_teaching([directory], tmp_path, Compute()).vectors
    rows = reading.blocks_by_length(sentences)
    assert [len(block) for block in rows] == [8, 3]
    apart = np.concatenate([vectors([sentences[row] for row in block]) for block in rows])
    kept = sorted(tmp_path.glob("personality-*.npz"))
    assert np.array_equal(vectors(sentences)[np.concatenate(rows)], apart)
    assert sorted(tmp_path.glob("personality-*.npz")) == kept
    assert len(kept) == 2
    assert np.allclose(vectors(sentences), personality_vectors(encoder, sentences), atol=1e-6)
