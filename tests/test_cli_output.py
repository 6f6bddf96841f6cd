"""Where `-o` writes, in which format, and what is kept of a run that is cut short."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_analyzer import FakeAnalyzer
from locked_folder import locked_folder

from psamf_edge.cli import main
from psamf_edge.cli.files import write_file
from psamf_edge.cli.inputs import expand
from psamf_edge.errors import IntegrityError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and signals as POSIX has them")


class StopsAt(FakeAnalyzer):
    """A fake that does something else at its third call: `act` is called in its place."""

    def __init__(self):
        super().__init__()
        self.act = None

    def __call__(self, clip=None, **arguments):
        if self.act and len(self.calls) == 2:
            self.act()
        return super().__call__(clip, **arguments)


@pytest.fixture
def fake(monkeypatch):
    analyzer = StopsAt()
    monkeypatch.setattr("psamf_edge.cli.options.Analyzer", analyzer.open)
    before = signal.getsignal(signal.SIGTERM)
    yield analyzer
    signal.signal(signal.SIGTERM, before)  # the command line has set its own


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A folder to work in, with four clips."""
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        (tmp_path / f"{name}.mp4").touch()
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert "Traceback" not in result.output
    assert "unexpected" not in result.stderr
    return result


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
    raise KeyboardInterrupt


def damage():
    raise IntegrityError("text.onnx differs.")


class TestFormat:
    @pytest.mark.parametrize(
        ("name", "format"),
        [
            ("o.csv", "csv"), ("o.json", "json"), ("o.jsonl", "json"), ("o.HTML", "html"), ("o.htm", "html"),
            ("o.srt", "srt"), ("o.vtt", "vtt"), ("o.svg", "svg"), ("o.txt", "json"), ("o", "json"),
        ],
    )  # fmt: skip
    def test_is_that_of_the_suffix(self, fake, clips, name, format):
        assert run("infer", "a.mp4", "-o", name).exit_code == 0
        assert (clips / name).read_bytes() == run("infer", "a.mp4", "-f", format).stdout_bytes

    def test_is_the_one_asked_for_whatever_the_suffix(self, fake, clips):
        run("infer", "a.mp4", "-f", "csv", "-o", "o.json")
        assert (clips / "o.json").read_text().startswith("clip,")

    def test_of_a_folder_is_json(self, fake, clips):
        (clips / "o.csv").mkdir()
        run("infer", "a.mp4", "-o", "o.csv")
        assert json.loads((clips / "o.csv/a.sentiment.json").read_text())["clip"] == "a.mp4"

    def test_a_slash_at_the_end_makes_a_folder(self, fake, clips):
        assert run("infer", "a.mp4", "-o", "new/").exit_code == 0
        assert json.loads((clips / "new/a.sentiment.json").read_text())["clip"] == "a.mp4"
        assert run("infer", "a.mp4", "-o", "a.mp4/").exit_code == 2

    @pytest.mark.parametrize("arguments", [("-o", "o.srt"), ("-f", "svg", "-o", "o.svg")])
    def test_several_clips_do_not_go_into_a_folder_that_is_called_like_a_file(self, fake, clips, arguments):
        result = run("infer", "a.mp4", "b.mp4", *arguments)
        assert result.exit_code == 2
        assert "with a slash at its end" in result.stderr
        assert fake.calls == []


class TestLinks:
    def test_what_a_link_leads_to_is_written(self, fake, clips):
        (clips / "real.json").write_text("old")
        (clips / "near").symlink_to("real.json")
        (clips / "far").symlink_to(clips / "near")
        assert run("infer", "a.mp4", "-o", "far").exit_code == 0
        assert json.loads((clips / "real.json").read_text())["clip"] == "a.mp4"
        assert (clips / "near").is_symlink()
        assert (clips / "far").is_symlink()

    def test_a_link_to_what_is_not_there_yet(self, fake, clips):
        (clips / "link").symlink_to("real.json")
        run("infer", "a.mp4", "-o", "link")
        assert json.loads((clips / "real.json").read_text())["clip"] == "a.mp4"
        assert (clips / "link").is_symlink()

    def test_devices_are_written_into(self, clips):
        (clips / "link").symlink_to("/dev/null")
        write_file(clips / "link", "lost")
        assert (clips / "link").is_symlink()
        assert Path("/dev/null").is_char_device()

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="numbers of open files are links on Linux")
    def test_an_open_file_is_written_into(self, clips):
        """As `-o /dev/stdout > all.txt` is, after something else was written there."""
        with open(clips / "all.txt", "w+") as file:
            file.write("before ")
            file.flush()
            (clips / "link").symlink_to(f"/proc/self/fd/{file.fileno()}")
            write_file(clips / "link", "after")
            file.seek(0)
            assert file.read() == "before after"
        assert (clips / "link").is_symlink()

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="numbers of open files are links on Linux")
    def test_so_is_an_open_pipe(self, clips):
        reading, writing = os.pipe()
        (clips / "link").symlink_to(f"/proc/self/fd/{writing}")
        write_file(clips / "link", "through")
        os.close(writing)
        with open(reading, "rb") as file:
            assert file.read() == b"through"

    def test_a_link_among_the_files_of_a_folder_is_replaced(self, fake, clips):
        """Nobody named it, and the folder may be a stranger's."""
        (clips / "precious").write_text("mine")
        (clips / "a.sentiment.json").symlink_to("precious")
        run("infer", "a.mp4", "-o", ".")
        assert (clips / "precious").read_text() == "mine"
        assert json.loads((clips / "a.sentiment.json").read_text())["clip"] == "a.mp4"

    def test_links_in_a_circle_are_one_bad_clip(self, fake, clips):
        (clips / "loop.mp4").symlink_to("loop.mp4")
        assert run("infer", "loop.mp4", "a.mp4", "-f", "csv", "-o", "o.csv").exit_code == 0  # the fake reads nothing
        assert len((clips / "o.csv").read_text().splitlines()) == 3


class TestNothingIsLost:
    @pytest.mark.parametrize("arguments", [("a.mp4",), ()])
    def test_the_words_are_not_replaced(self, fake, clips, arguments):
        (clips / "words.srt").write_text("mine")
        result = run("infer", *arguments, "--transcript", "words.srt", "-o", "./words.srt")
        assert result.exit_code == 2
        assert "words.srt is read, and would be replaced" in result.stderr
        assert (clips / "words.srt").read_text() == "mine"
        assert fake.calls == []

    def test_nor_is_a_clip_by_predictions(self, fake, clips):
        (clips / "data.csv").write_text("id,clip,label\n1,a.mp4,1\n")
        for name in ("a.mp4", "data.csv"):
            result = run("evaluate", "data.csv", "--predictions", name)
            assert result.exit_code == 2
            assert "would be replaced" in result.stderr
        assert fake.calls == []

    def test_metrics_are_printed_where_predictions_cannot_be_written(self, fake, clips, monkeypatch):
        def fail(descriptor):
            raise OSError(28, "No space left on device")

        (clips / "data.csv").write_text("id,text,label\n1,good,1\n")
        monkeypatch.setattr("os.fsync", fail)
        result = run("evaluate", "data.csv", "--predictions", "o.csv")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["n"] == 1
        assert "o.csv: No space left on device." in result.stderr

    def test_what_cannot_be_written_is_said_before_the_work(self, fake, clips):
        with locked_folder() as locked:
            for path in (locked / "o.json", clips / ("x" * 300 + ".json")):
                result = run("infer", "a.mp4", "-o", path)
                assert result.exit_code == 2
                assert "cannot be written" in result.stderr or "There is no folder" in result.stderr
        assert fake.calls == []

    def test_a_name_that_no_file_can_have_is_one_bad_row(self, fake, clips):
        (clips / "data.csv").write_text('id,text,clip,label\n1,good,"a\0b",1\n2,good,,1\n')
        result = run("evaluate", "data.csv", "--predictions", "o.csv")
        assert json.loads(result.stdout)["n"] >= 1  # the fake reads no clip

    def test_a_device_is_no_input(self, fake, clips):
        (clips / "data.csv").write_text("id,clip,label\n1,/dev/null,1\n")
        assert run("evaluate", "data.csv", "--predictions", "/dev/null").exit_code == 0

    def test_a_missing_package_is_said_before_the_work(self, fake, clips, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        result = run("infer", "a.mp4", "-o", "o.png")
        assert result.exit_code == 3
        assert "psamf-edge[plot]" in result.stderr
        assert fake.calls == []

    def test_a_file_whose_place_nothing_can_take_is_written_into(self, clips, monkeypatch):
        """As one that is mounted into a container."""

        def busy(*paths):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

        monkeypatch.setattr("os.replace", busy)
        (clips / "o.json").write_text("a longer text than the new one")
        write_file(clips / "o.json", "new")
        assert (clips / "o.json").read_text() == "new"
        with pytest.raises(OSError, match=r"busy: '.*other\.json'$"):  # the name that the user gave
            write_file(clips / "other.json", "new")
        assert sorted(path.name for path in clips.glob(".*")) == []

    def test_a_file_for_few_stays_so(self, fake, clips):
        (clips / "o.json").touch(mode=0o600)
        run("infer", "a.mp4", "-o", "o.json")
        run("infer", "a.mp4", "-o", "new.json")
        assert stat.S_IMODE((clips / "o.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((clips / "new.json").stat().st_mode) & 0o400

    def test_a_dash_is_stdout(self, fake, clips):
        assert json.loads(run("infer", "a.mp4", "-o", "-").stdout)["clip"] == "a.mp4"
        assert not (clips / "-").exists()


class TestNames:
    def test_an_empty_one_is_not_the_working_folder(self, fake, clips):
        result = run("infer", "")
        assert result.exit_code == 1
        assert "An empty name stands for no clip" in result.stderr
        assert fake.calls == []

    def test_too_long_ones_are_passed_on(self, clips):
        long = "x" * 300
        assert expand([long, f"{long}*", "a.mp4"]) == [Path(long), f"No file matches {long}*.", Path("a.mp4")]

    def test_locked_ones_are_passed_on(self):
        with locked_folder() as locked:
            (locked.parent / "good.mp4").touch()
            (locked.parent / "into.mp4").symlink_to(locked / "clip.mp4")
            inside = locked / "clip.mp4"
            assert expand([str(inside), str(locked.parent)]) == [inside, locked.parent / "good.mp4"]


ENDINGS = [(terminate, 143), (interrupt, 130), (damage, 4)]


class TestCutShort:
    @pytest.mark.parametrize(("act", "code"), ENDINGS)
    def test_what_was_scored_is_written(self, fake, clips, act, code):
        fake.act = act
        result = run("infer", "-q", *sorted(path.name for path in clips.iterdir()), "-o", "o.csv")
        assert result.exit_code == code
        rows = list(csv.DictReader((clips / "o.csv").read_text().splitlines()))
        assert [row["clip"] for row in rows] == ["a.mp4", "b.mp4"]
        assert "psamf-edge: 2 of 4 clips were scored and written." in result.stderr

    def test_so_it_is_on_stdout(self, fake, clips):
        fake.act = interrupt
        result = run("infer", "a.mp4", "b.mp4", "c.mp4", "-f", "csv")
        assert result.exit_code == 130
        assert len(result.stdout.splitlines()) == 3

    def test_before_the_first_result_an_old_file_stays(self, fake, clips):
        (clips / "o.csv").write_text("old")
        fake.error = IntegrityError("text.onnx differs.")
        result = run("infer", "a.mp4", "b.mp4", "-o", "o.csv")
        assert result.exit_code == 4
        assert (clips / "o.csv").read_text() == "old"
        assert "written" not in result.stderr

    def test_where_that_fails_too_the_first_error_decides(self, fake, clips, monkeypatch):
        def fail(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fail)
        fake.act = damage
        result = run("infer", "a.mp4", "b.mp4", "c.mp4", "-o", "o.csv")
        assert result.exit_code == 4
        assert "No space left on device" in result.stderr
        assert "text.onnx differs." in result.stderr
        assert not (clips / "o.csv").exists()

    @pytest.mark.parametrize(("act", "code"), ENDINGS)
    def test_so_are_predictions(self, fake, clips, act, code):
        (clips / "data.csv").write_text("id,text,label\na,good,1\nb,bad,-1\nc,good,1\nd,good,1\n")
        fake.act = act
        result = run("evaluate", "data.csv", "--predictions", "o.csv")
        assert (result.exit_code, result.stdout) == (code, "")  # metrics of a part would be taken for those of all
        rows = list(csv.DictReader((clips / "o.csv").read_text().splitlines()))
        assert [(row["id"], row["score"]) for row in rows] == [("a", "1.500000"), ("b", "-1.500000")]
        assert "The predictions of 2 of 4 rows were written." in result.stderr
