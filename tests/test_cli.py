"""The command line with a fake model: what goes where, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import threading

import pytest
from click.testing import CliRunner
from fake_analyzer import FakeAnalyzer

from psamf_edge import __version__
from psamf_edge.cli import main
from psamf_edge.cli.inputs import expand
from psamf_edge.errors import InputError, IntegrityError, MissingDependencyError, PsamfError, UsageError
from psamf_edge.report import FORMATS


@pytest.fixture
def fake(monkeypatch):
    """The analyzer that the command line will open."""
    analyzer = FakeAnalyzer()
    monkeypatch.setattr("psamf_edge.cli.options.Analyzer", analyzer.open)
    return analyzer


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A folder to work in: talk.mp4, bad.mp4, and more/ with a song, a picture and what is no clip."""
    monkeypatch.chdir(tmp_path)
    for name in ("talk.mp4", "bad.mp4", "more/song.WAV", "more/deep/face.jpg", "more/notes.txt", "more/.hidden.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "more/deep/face.sentiment.png").touch()
    return tmp_path


def run(*arguments: str, **options):
    result = CliRunner().invoke(main, [*arguments], **options)
    assert "Traceback" not in result.output
    return result


class TestOutput:
    def test_one_clip_is_one_json_document_on_stdout(self, fake, clips):
        result = run("infer", "talk.mp4")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["clip"] == "talk.mp4"
        assert "talk.mp4: +0.0 neutral" in result.stderr

    def test_quiet_leaves_stderr_empty(self, fake, clips):
        fake.warnings = ["The clip has no sound."]
        assert run("infer", "-q", "talk.mp4").stderr == ""

    def test_warnings_go_to_stderr_and_into_the_data(self, fake, clips):
        fake.warnings = ["The clip has no sound."]
        result = run("infer", "talk.mp4")
        assert "psamf-edge: warning: The clip has no sound." in result.stderr
        assert json.loads(result.stdout)["warnings"] == fake.warnings

    def test_the_device_is_said_aloud(self, fake, clips):
        fake.note = "Running on the CPU, although the bundle was compiled for a GPU."
        assert "runs on onnxruntime" in run("infer", "talk.mp4").stderr
        assert run("infer", "-q", "talk.mp4").stderr == f"psamf-edge: {fake.note}\n"

    def test_many_clips_are_json_lines_and_a_failure_does_not_stop_them(self, fake, clips):
        result = run("infer", "talk.mp4", "bad.mp4", "more")
        assert result.exit_code == 1
        lines = [json.loads(line)["clip"] for line in result.stdout.splitlines()]
        assert lines == ["talk.mp4", "more/deep/face.jpg", "more/song.WAV"]
        assert 'psamf-edge: error: "bad.mp4" is no media file.' in result.stderr

    def test_csv_has_one_header(self, fake, clips):
        rows = list(csv.DictReader(io.StringIO(run("infer", "talk.mp4", "more", "-f", "csv").stdout)))
        assert [row["clip"] for row in rows] == ["talk.mp4", "more/deep/face.jpg", "more/song.WAV"]

    @pytest.mark.parametrize("format", [f for f in FORMATS if f != "png"])
    def test_every_format_goes_to_a_file(self, fake, clips, format):
        result = run("infer", "talk.mp4", "-f", format, "-o", "out.txt")
        assert (result.exit_code, result.stdout) == (0, "")
        assert (clips / "out.txt").read_bytes() == run("infer", "talk.mp4", "-f", format).stdout_bytes
        assert stat.S_IMODE((clips / "out.txt").stat().st_mode) & 0o077 == 0o044  # not the 0600 of a temporary file
        assert [p.name for p in clips.iterdir() if p.name.startswith(".")] == []

    def test_a_folder_gets_a_file_for_each_clip(self, fake, clips):
        (clips / "talk.wav").touch()
        result = run("infer", "talk.mp4", "talk.wav", "more", "-f", "srt", "-o", "out/subtitles")
        assert result.exit_code == 0
        names = sorted(path.name for path in (clips / "out/subtitles").iterdir())
        assert names == ["face.sentiment.srt", "song.sentiment.srt", "talk-2.sentiment.srt", "talk.sentiment.srt"]

    def test_what_was_written_is_no_input_the_next_time(self, fake, clips):
        run("infer", "more", "-f", "svg", "-o", "more")
        (clips / "more/song.sentiment.png").touch()
        assert len(run("infer", "more").stdout.splitlines()) == 2

    @pytest.mark.parametrize(
        "arguments",
        [
            ("talk.mp4", "bad.mp4", "-f", "srt"),  # two clips, one stdout
            ("talk.mp4", "more", "-f", "svg", "-o", "more/notes.txt"),  # two clips, one file
            ("talk.mp4", "-o", "talk.mp4"),  # over the input
            ("talk.mp4", "-f", "srt", "-o", "talk.srt"),  # would be the transcript of the next run
            ("talk.mp4", "-o", "nowhere/out.json"),
        ],
    )
    def test_outputs_that_cannot_work_are_refused_before_any_work(self, fake, clips, arguments):
        assert run("infer", *arguments).exit_code == 2
        assert fake.calls == []

    def test_a_failure_keeps_the_old_file(self, fake, clips):
        (clips / "out.json").write_text("old")
        assert run("infer", "bad.mp4", "-o", "out.json").exit_code == 1
        assert (clips / "out.json").read_text() == "old"

    def test_a_pipe_is_written_into_and_not_replaced(self, fake, clips):
        os.mkfifo("pipe")
        received = []
        reader = threading.Thread(target=lambda: received.append((clips / "pipe").read_bytes()))
        reader.start()
        run("infer", "talk.mp4", "-o", "pipe")
        reader.join(10)
        assert received == [run("infer", "talk.mp4").stdout_bytes]
        assert (clips / "pipe").is_fifo()

    def test_a_full_disk_is_a_sentence(self, fake, clips, monkeypatch):
        def fail(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fail)
        result = run("infer", "talk.mp4", "-o", "out.json")
        assert result.exit_code == 1
        assert "No space left on device" in result.stderr
        assert not (clips / "out.json").exists()
        assert [p.name for p in clips.iterdir() if p.name.startswith(".")] == []


class TestArguments:
    def test_all_reach_the_analyzer(self, fake, clips):
        run(
            "infer", "talk.mp4", "--text", "very good", "--modalities", "face, text", "--asr", "auto", "--whole",
            "--bundle", "x.psamf", "--device", "cpu", "--threads", "3",
        )  # fmt: skip
        ((clip, arguments),) = fake.calls
        assert str(clip) == "talk.mp4"
        arguments.pop("on_progress")
        assert arguments == {
            "text": "very good", "transcript": None, "modalities": ("text", "face"), "asr": "auto", "whole": True
        }  # fmt: skip
        assert (str(fake.opened_with[0]), *fake.opened_with[1:]) == ("x.psamf", "cpu", 3)

    def test_words_alone(self, fake):
        result = run("infer", "--text", "good")
        assert json.loads(result.stdout)["score"] == 1.5
        assert fake.calls[0][0] is None

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("infer",),
            ("infer", "a.mp4", "b.mp4", "--text", "x"),
            ("infer", "a.mp4", "b.mp4", "--transcript", "x.srt"),
            ("infer", "a.mp4", "--format", "xml"),
            ("infer", "a.mp4", "--modalities", "text,smell"),
            ("infer", "a.mp4", "--modalities", ""),
            ("infer", "a.mp4", "--device", "tpu"),
            ("infer", "a.mp4", "--threads", "0"),
            ("infer", "--nonsense"),
            ("guess",),
        ],
    )
    def test_wrong_use_is_one_line_and_2(self, fake, arguments):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("psamf-edge: error: ")
        assert result.stderr.count("\n") == 1
        assert fake.calls == []

    def test_version_and_help(self):
        assert __version__ in run("--version").stdout
        for name in ("infer", "evaluate", "compile", "extract", "train", "distill"):
            assert name in run("--help").stdout
            assert run(name, "--help").exit_code == 0


class TestInputs:
    def test_folders_are_searched_and_sorted(self, clips):
        assert [str(path) for path in expand(["more", "talk.mp4"])] == [
            "more/deep/face.jpg",
            "more/song.WAV",
            "talk.mp4",
        ]

    def test_patterns_are_expanded(self, clips):
        assert [str(path) for path in expand(["*.mp4", "**/*.jpg"])] == ["bad.mp4", "talk.mp4", "more/deep/face.jpg"]

    def test_a_file_whose_name_looks_like_a_pattern_is_a_file(self, clips):
        (clips / "talk[1].mp4").touch()
        assert [str(path) for path in expand(["talk[1].mp4"])] == ["talk[1].mp4"]

    def test_each_clip_once(self, clips):
        assert [str(path) for path in expand(["talk.mp4", "./talk.mp4", "t*.mp4"])] == ["talk.mp4"]

    def test_what_holds_no_clip(self, fake, clips):
        (clips / "void").mkdir()
        result = run("infer", "void", "*.mkv", "talk.mp4")
        assert result.exit_code == 1
        assert "The folder void holds no clip" in result.stderr
        assert "No file matches *.mkv." in result.stderr
        assert len(result.stdout.splitlines()) == 1
        assert run("infer", "void").exit_code == 1


class TestEndings:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (InputError("x."), 1), (PsamfError("x."), 1), (UsageError("x."), 2), (MissingDependencyError("x."), 3),
            (IntegrityError("x."), 4), (KeyboardInterrupt(), 130), (RuntimeError("x"), 1), (MemoryError(), 1),
            (ModuleNotFoundError("No module named 'torch'", name="torch"), 3), (ImportError("no libcuda.so"), 3),
        ],
    )  # fmt: skip
    def test_every_error_has_its_code(self, fake, clips, error, code):
        fake.error = error
        result = run("infer", "-q", "talk.mp4")
        assert result.exit_code == code
        assert result.stdout == ""
        assert result.stderr.strip().count("\n") == 0

    def test_a_missing_package_names_its_extra(self, fake, clips):
        fake.error = ModuleNotFoundError("No module named 'torch'", name="torch")
        assert "pip install 'psamf-edge[compile]'" in run("infer", "talk.mp4").stderr

    def test_an_error_that_every_clip_would_meet_ends_the_run(self, fake, clips):
        fake.error = IntegrityError("text.onnx differs.")
        assert run("infer", "talk.mp4", "more").exit_code == 4
        assert len(fake.calls) == 1

    def test_debug_shows_the_traceback(self, fake, clips):
        fake.error = RuntimeError("a bug")
        for arguments, env in ((["--debug"], {}), ([], {"PSAMF_EDGE_DEBUG": "1"})):
            result = CliRunner().invoke(main, [*arguments, "infer", "talk.mp4"], env=env)
            assert "Traceback (most recent call last)" in result.stderr
        assert "unexpected RuntimeError: a bug." in run("infer", "talk.mp4").stderr

    def test_debug_changes_no_exit_code(self, fake, clips):
        for error, code in ((UsageError("x."), 2), (MissingDependencyError("x."), 3), (IntegrityError("x."), 4)):
            fake.error = error
            assert CliRunner().invoke(main, ["--debug", "infer", "talk.mp4"]).exit_code == code

    def test_terminal_controls_in_names_do_not_reach_the_terminal(self, fake, clips):
        result = run("infer", "bad\x1b[31m.mp4")
        assert "\x1b" not in result.stderr
