"""Settings of a training: files, options, ranges, the run folder's memory, and what the command line says of them."""

import subprocess
import sys
from dataclasses import asdict, dataclass, replace

import pytest
from click.testing import CliRunner

from psamf_edge.cli import main
from psamf_edge.compile.training.settings import LoopSettings, TrainSettings, one_of, within
from psamf_edge.compile.training.toml_settings import make_settings, remember, to_toml
from psamf_edge.errors import UsageError


@dataclass(frozen=True)
class ExampleSettings(LoopSettings):
    """What a training of another kind adds."""

    batch: int = within(256, 2)
    form: str = one_of("drawn", "drawn", "released")


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("settings", [TrainSettings(), ExampleSettings(seed=7, form="released", bfloat16=False)])
def test_what_is_shown_reads_back_the_same(settings, file):
    assert make_settings(type(settings), file(to_toml(settings))) == settings


def test_the_later_beats_the_earlier(file):
    path = file("batch = 16\nseed = 3\ntrunk_lr = 1e-4\n")
    settings = make_settings(TrainSettings, path, ["seed=4", "batch = 8"], batch=4, text_epochs=None)
    assert (settings.trunk_lr, settings.seed, settings.batch, settings.text_epochs) == (1e-4, 4, 4, 3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epocs = 3", r"no setting 'epocs'; the settings are seed, batch, .*sign_weight\."),
        ("batch = 0", r"batch is a whole number from 1, not 0\."),
        ("batch = 2.5", r"batch is a whole number from 1, not 2\.5\."),
        ("batch = true", r"batch is a whole number from 1, not True\."),
        ("batch = [1]", r"batch is a whole number from 1, not \[1\]\."),
        ("bfloat16 = 1", r"bfloat16 is true or false, not 1\."),
        ("warmup = 1.5", r"warmup is a number from 0 to 1, not 1\.5\."),
        ("trunk_lr = nan", r"trunk_lr is a number from 0, not nan\."),
        ("[loop]\nbatch = 3", r"no setting 'loop'"),
        ("batch == 3", r"is no TOML file"),
    ],
)
def test_a_bad_file_is_one_sentence(file, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_settings(TrainSettings, file(text))


def test_a_file_of_another_encoding_is_one_sentence(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is no TOML file"):
        make_settings(TrainSettings, tmp_path / "x.toml")


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("batch", r"--set takes NAME=VALUE, not 'batch'"),
        ("batch=", r"batch is a whole number from 2, not ''\."),
        ("batch=1e2", r"batch is a whole number from 2, not '1e2'\."),
        ("bfloat16=yes", r"bfloat16 is true or false, not 'yes'\."),
        ("form=other", r"form is one of drawn, released, not 'other'\."),
        ("forms=drawn", r"no setting 'forms'"),
    ],
)
def test_a_bad_assignment_is_one_sentence(assignment, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_settings(ExampleSettings, None, [assignment])


def test_whole_numbers_are_numbers():
    assert make_settings(TrainSettings, None, ["warmup=1", "bfloat16=false"]) == TrainSettings(
        warmup=1.0, bfloat16=False
    )
    assert type(TrainSettings(warmup=1).warmup) is float


def test_every_default_is_within_its_range():
    assert asdict(TrainSettings())["batch"] == 32  # made without an error is the test


def test_a_folder_remembers_its_settings(tmp_path):
    folder = tmp_path / "run"
    remember(folder, TrainSettings())
    remember(folder, TrainSettings())
    with pytest.raises(UsageError, match=r"other settings: batch \(32 there, 8 now\), seed \(0 there, 1 now\)\. Use"):
        remember(folder, replace(TrainSettings(), seed=1, batch=8))
    assert [path.name for path in folder.iterdir()] == ["settings.toml"]


def run(*arguments):
    return CliRunner().invoke(main, arguments)


def test_the_group_lists_what_can_be_trained_without_importing_it():
    code = "import sys\nfrom psamf_edge.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    for name in ("student", "teacher", "personality"):
        assert f"  {name} " in done.stdout


def test_settings_are_shown_without_the_folders(tmp_path):
    pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
    result = run("train", "student", "--show-settings", "--set", "batch=8", "--seed", "5")
    assert result.exit_code == 0
    (tmp_path / "s.toml").write_text(result.stdout)
    assert make_settings(TrainSettings, tmp_path / "s.toml") == TrainSettings(batch=8, seed=5)
    assert run("train", "student", "--set", "batch=8").exit_code == 2  # the folders are needed for more


def test_a_wrong_setting_ends_the_command_before_anything_is_written(tmp_path):
    pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
    folders = ["--data", str(tmp_path), "--bert", str(tmp_path), "-o", str(tmp_path / "out")]
    result = run("train", "student", *folders, "--set", "batch=none")
    assert result.exit_code == 2
    assert "batch is a whole number" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_begun_otherwise_ends_the_command(tmp_path):
    pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
    remember(tmp_path / "out", TrainSettings(seed=1))
    folders = ["--data", str(tmp_path), "--bert", str(tmp_path), "-o", str(tmp_path / "out")]
    result = run("train", "student", *folders, "--device", "cpu")
    assert result.exit_code == 2
    assert "seed (1 there, 0 now)" in result.stderr
