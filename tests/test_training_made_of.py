"""A run folder goes on with what it was begun with, wherever that lies by now, and with nothing else."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import test_whole_path as whole
from click.testing import CliRunner
from conftest import VOCABULARY
from safetensors.torch import load_file, save_file

from psamf_edge.audio.features import AUDIO_FEATURES
from psamf_edge.cli import main
from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.model.student import Student, StudentConfig, save_student
from psamf_edge.compile.model.teacher import Teacher, TeacherConfig, save_teacher
from psamf_edge.compile.personality.model import PersonalityEncoder, save_personality
from psamf_edge.compile.training import made_of, student, teacher
from psamf_edge.compile.training.made_of import NOTHING, Ingredient, remember
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES

data, caches, bert, parts = whole.data, whole.caches, whole.bert, whole.parts  # fixtures

SMALL = BertConfig(vocabulary=len(VOCABULARY) + 4, width=32, heads=2, feed_forward=64, blocks=2, positions=128)
QUICK = ("--set", "batch=16", "--set", "max_tokens=32", "--threads", "1", "--device", "cpu")
STUDENT = ("--set", "text_epochs=1", "--set", "voice_steps=5", "--set", "fusion_epochs=1", *QUICK)


# a key


def write(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_key_is_of_the_content_and_not_of_the_place(tmp_path):
    here = Ingredient.of_folder(write(tmp_path / "here", a=b"1", b=b"2", c=b"3"), "a", "b")
    there = Ingredient.of_folder(write(tmp_path / "there", a=b"1", b=b"2", c=b"4"), "a", "b")
    assert here.key == there.key
    assert (here.name, there.name) == ("here", "there")
    others = [{"a": b"1", "b": b"3"}, {"a": b"12", "b": b""}, {"a": b"2", "b": b"1"}, {"a": b"1"}, {}]
    keys = {Ingredient.of_folder(write(tmp_path / str(i), **other), "a", "b").key for i, other in enumerate(others)}
    assert len(keys | {here.key}) == len(others) + 1


def test_a_large_file_is_known_by_its_size_and_by_stretches_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(made_of, "WHOLE", 1000)
    monkeypatch.setattr(made_of, "STRETCHES", 5)
    monkeypatch.setattr(made_of, "STRETCH", 10)
    content = bytes(range(200)) * 6

    def key(changed):
        return Ingredient.of_folder(write(tmp_path / "x", large=changed), "large").key

    original = key(content)
    assert key(content) == original
    for place in (0, 9, 1190, 1199):
        assert key(content[:place] + b"\xff" + content[place + 1 :]) != original
    assert key(bytes(byte ^ 1 for byte in content)) != original  # as a training leaves it
    assert key(content[:600] + b"\x00" * 7 + content[600:]) != original


# the memory


def test_a_folder_remembers_what_it_was_given(tmp_path):
    given = {"--bert": Ingredient("large", "1" * 64), "--begin": NOTHING}
    remember(tmp_path, given)
    before = (tmp_path / "made-of.json").read_bytes()
    remember(tmp_path, {"--bert": Ingredient("moved", "1" * 64), "--begin": NOTHING})
    assert (tmp_path / "made-of.json").read_bytes() == before
    expected = r"begun with something else: --bert \(large 11111111 there, small 22222222 now\)\. Go on with"
    with pytest.raises(UsageError, match=expected):
        remember(tmp_path, given | {"--bert": Ingredient("small", "2" * 64)})
    with pytest.raises(UsageError, match=r"--begin \(none there, small 22222222 now\)"):
        remember(tmp_path, given | {"--begin": Ingredient("small", "2" * 64)})
    assert [path.name for path in tmp_path.iterdir()] == ["made-of.json"]


def test_what_was_not_remembered_is_taken_over(tmp_path):
    remember(tmp_path, {"a": Ingredient("x", "1")})
    remember(tmp_path, {"b": Ingredient("y", "2")})
    for name in ("a", "b"):
        with pytest.raises(UsageError):
            remember(tmp_path, {name: Ingredient("z", "3")})


@pytest.mark.parametrize("junk", ["{", "[]", '{"a": 1}', '{"a": {"name": "x"}}'])
def test_a_damaged_memory_is_one_sentence(tmp_path, junk):
    (tmp_path / "made-of.json").write_text(junk)
    with pytest.raises(UsageError, match=r"made-of\.json is damaged; delete it"):
        remember(tmp_path, {"b": Ingredient("y", "2")})


# the commands


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def interrupt(*arguments, **options):
    raise KeyboardInterrupt


def refuse(*arguments, **options):
    raise AssertionError("a finished stage was repeated")


@pytest.fixture(scope="module")
def other_bert(bert, tmp_path_factory):
    """`bert`, trained further: no file differs in its length."""
    folder = tmp_path_factory.mktemp("other") / "bert"
    shutil.copytree(bert, folder)
    weights = {name: value + 0.1 for name, value in load_file(bert / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def other_data(data, tmp_path_factory):
    """The same data with one label changed."""
    folder = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(data, folder)
    labels = folder / "mosi" / "labels.csv"
    labels.write_text(labels.read_text().replace(",2.0,", ",1.0,", 1))
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two untrained teachers of one personality encoder, and the personality encoder that they do not have."""
    folder = tmp_path_factory.mktemp("teachers")
    for seed in (0, 1):
        torch.manual_seed(seed)
        sizes = (len(AUDIO_FEATURES), len(VISION_FEATURES))
        config = TeacherConfig.drawn(*sizes, bert=SMALL, width=16, serial_width=16)
        save_teacher(Teacher(config), folder / str(seed))
    for seed, names in enumerate((("0", "1", "personality"), ("other",))):
        torch.manual_seed(seed)
        encoder = PersonalityEncoder(SMALL)
        for name in names:
            save_personality(encoder, folder / name, {})
    return folder


def begun(out, caches, module, name, monkeypatch, *arguments):
    """A run that is interrupted in the middle."""
    shutil.copytree(caches, out)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupt)
        assert invoke(*arguments, "-o", out).exit_code == 130
    return out


def refused(result, *options):
    """Whether the call ends with the sentence that names these options, and no other."""
    assert result.exit_code == 2, result.output
    assert "was begun with something else" in result.stderr
    return [name for name in result.stderr.split() if name.startswith(("--", "TEACHERS"))] == list(options)


def test_a_student_goes_on_with_its_data_and_encoder_alone(
    data, other_data, caches, bert, other_bert, parts, tmp_path, monkeypatch
):
    def call(data=data, bert=bert, parts=parts):
        return ("train", "student", "--data", data, "--bert", bert, "--parts", parts, *STUDENT)

    out = begun(tmp_path / "out", caches, student, "train_voice", monkeypatch, *call())
    kept = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert "text-stage.safetensors" in kept
    assert str(data) not in kept["made-of.json"].decode()
    other_parts = tmp_path / "parts"
    shutil.copytree(parts, other_parts)
    (other_parts / "vocab.txt").write_text((parts / "vocab.txt").read_text() + "more\n")
    assert refused(invoke(*call(data=other_data), "-o", out), "--data")
    assert refused(invoke(*call(bert=other_bert), "-o", out), "--bert")
    assert refused(invoke(*call(parts=other_parts), "-o", out), "--parts")
    more = tmp_path / "more"
    shutil.copytree(data, more)
    (more / "speech" / "ravdess" / "03-01-03-01-01-01-01.wav").write_bytes(b"another take")
    assert refused(invoke(*call(data=more), "-o", out), "--data")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == kept

    # everything may be moved
    moved = [tmp_path / "moved" / name for name in ("data", "bert", "parts", "out")]
    for source, target in zip((data, bert, parts, out), moved, strict=True):
        shutil.copytree(source, target)
    monkeypatch.setattr(student, "train_text", refuse)
    result = invoke(*call(*moved[:3]), "-o", moved[3])
    assert result.exit_code == 0, result.output
    assert (moved[3] / "training.json").is_file()

    # an older version remembered nothing of it
    (out / "made-of.json").unlink()
    monkeypatch.setattr(student, "train_voice", interrupt)
    assert invoke(*call(), "-o", out).exit_code == 130
    assert json.loads((out / "made-of.json").read_text()) == json.loads(kept["made-of.json"])
    assert refused(invoke(*call(bert=other_bert), "-o", out), "--bert")  # from now on it remembers


def test_a_teacher_goes_on_with_its_encoders_alone(
    data, other_data, caches, bert, other_bert, parts, teachers, tmp_path, monkeypatch
):
    def call(data=data, bert=bert, personality=teachers / "personality"):
        return ("train", "teacher", "--data", data, "--bert", bert, "--personality", personality, "--parts", parts,
                *QUICK)  # fmt: skip

    out = begun(tmp_path / "out", caches, teacher, "train_teacher", monkeypatch, *call())
    assert refused(invoke(*call(data=other_data), "-o", out), "--data")
    assert refused(invoke(*call(bert=other_bert), "-o", out), "--bert")
    assert refused(invoke(*call(personality=teachers / "other"), "-o", out), "--personality")


def test_a_student_goes_on_with_its_teachers_alone(
    data, caches, bert, other_bert, parts, teachers, tmp_path, monkeypatch
):
    (tmp_path / "further.txt").write_text("a good day\nit is tea\n")
    (tmp_path / "others.txt").write_text("a bad day\nit is tea\n")

    def call(*given, sentences="further", begin=bert):
        return ("distill", *given, "--data", data, "--begin", begin, "--parts", parts, *STUDENT,
                "--sentences", tmp_path / f"{sentences}.txt")  # fmt: skip

    first, second = teachers / "0", teachers / "1"
    out = begun(tmp_path / "out", caches, student, "train_voice", monkeypatch, *call(first, second))
    assert refused(invoke(*call(second, first), "-o", out), "TEACHERS")
    assert refused(invoke(*call(first), "-o", out), "TEACHERS")
    assert refused(invoke(*call(first, second, begin=other_bert), "-o", out), "--begin")
    assert refused(invoke(*call(first, second, sentences="others"), "-o", out), "--sentences")
    without = [word for word in call(first, second) if word not in ("--begin", bert)]
    assert refused(invoke(*without, "-o", out), "--begin")
    torch.manual_seed(3)
    earlier = Student(StudentConfig(len(AUDIO_FEATURES), len(VISION_FEATURES), SMALL))
    save_student(earlier, tmp_path / "earlier", torch.float32)
    assert refused(invoke(*call(first, second, begin=tmp_path / "earlier"), "-o", out), "--begin")
    moved = tmp_path / "moved" / "teacher"
    shutil.copytree(first, moved)
    with monkeypatch.context() as patch:
        patch.setattr(student, "train_text", refuse)
        patch.setattr(student, "train_voice", interrupt)
        assert invoke(*call(moved, second), "-o", out).exit_code == 130  # it went on
