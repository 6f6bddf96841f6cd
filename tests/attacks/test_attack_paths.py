"""Names and places that mean harm, through the command line: links, loops, long and odd names, transcripts with script.

tests/test_media_hostile.py holds names and addresses that FFmpeg would take for something else.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import media_files as files
import pytest
from click.testing import CliRunner
from fake_analyzer import FakeAnalyzer

from psamf_edge.cli import main
from psamf_edge.cli.inputs import expand
from psamf_edge.words.subtitles import MAX_BYTES

SCRIPTED = """1
00:00:00,000 --> 00:00:01,000
</script><script>alert(1)</script>

2
00:00:01,000 --> 00:00:02,000
=HYPERLINK("http://example.org","good")

3
00:00:02,000 --> 00:00:03,000
\x1b]0;owned\x07\x1b[2J good \u202e dlrow
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and odd names as POSIX has them")


def run(*arguments) -> object:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert "Traceback" not in result.output
    assert "unexpected" not in result.stderr
    return result


@pytest.fixture
def fake(monkeypatch):
    analyzer = FakeAnalyzer()
    monkeypatch.setattr("psamf_edge.cli.options.Analyzer", analyzer.open)
    return analyzer


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return files.write_clip(tmp_path_factory.mktemp("clip") / "clip.wav", 4, size=None, audio_codec="pcm_s16le")


def test_folders_that_lead_into_themselves_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "talk.mp4").touch()
    (tmp_path / "a" / "b" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "nothing.mp4").symlink_to("absent")
    os.mkfifo(tmp_path / "pipe.mp4")
    found = expand([str(tmp_path)])
    assert {Path(path).resolve() for path in found} == {(tmp_path / "a" / "b" / "talk.mp4").resolve()}
    assert len(found) < 100
    assert expand([str(tmp_path / "**" / "*.mp4")])


def test_links_that_lead_nowhere_or_to_what_is_no_file(tmp_path, clip):
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "nothing.mp4").symlink_to("absent")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    good = Path(shutil.copy(clip, tmp_path / "good.wav"))
    good.with_suffix(".txt").write_text("It was good.")
    bad = [tmp_path / name for name in ("self.mp4", "nothing.mp4", "device.mp4", "folder.mp4")]
    result = run("infer", *bad, good)
    assert result.exit_code == 1
    assert [json.loads(line)["clip"] for line in result.stdout.splitlines()] == [str(good)]
    assert result.stderr.count("error: ") == len(bad)


@pytest.mark.parametrize("kind", ["endless", "device", "pipe", "zeros", "folder", "loop"])
def test_a_sidecar_that_is_no_transcript_is_passed_over(tmp_path, clip, kind):
    target = Path(shutil.copy(clip, tmp_path / "talk.wav"))
    sidecar = target.with_suffix(".srt")
    match kind:
        case "endless":
            sidecar.touch()
            os.truncate(sidecar, 1 << 40)
        case "device":
            sidecar.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(sidecar)
        case "zeros":
            sidecar.write_bytes(bytes(MAX_BYTES))
        case "folder":
            sidecar.mkdir()
        case "loop":
            sidecar.symlink_to(sidecar.name)
    target.with_suffix(".txt").write_text("It was good.")
    result = run("infer", target)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["segments"][0]["text"] == "It was good."


class Scripts(HTMLParser):
    """What a page runs and shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts, self.words, self.handlers = 0, "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.words += data


def test_a_transcript_with_script_is_shown_and_never_run(tmp_path, clip):
    target = Path(shutil.copy(clip, tmp_path / "talk.wav"))
    target.with_suffix(".srt").write_text(SCRIPTED, encoding="utf-8")
    page = Scripts(run("infer", target, "-f", "html").stdout)
    assert (page.scripts, page.handlers) == (1, [])  # our own
    assert "HYPERLINK" in page.words
    for format_ in ("json", "csv", "srt", "vtt", "svg"):
        result = run("infer", target, "-f", format_)
        assert result.exit_code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(result.stdout + result.stderr)
        if format_ == "csv":
            cells = [cell for row in csv.reader(io.StringIO(result.stdout)) for cell in row]
            assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))]


def test_names_as_long_as_a_file_system_takes(fake, tmp_path):
    names = ["x" * 251 + ".mp4", "é" * 125 + ".mp4", "x" * 251 + ".mkv", "talk.mp4"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "out").mkdir()
    result = run("infer", *(tmp_path / name for name in names), "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert len(list((tmp_path / "out").iterdir())) == len(names)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse such names")
def test_names_that_are_no_text(fake, tmp_path):
    names = [b"\xff\xfe.mp4", b"a\nb.mp4", b"\x1b[31m.mp4", b"=cmd|x!A0.mp4", b"--help.mp4", b"..mp4", b" .mp4"]
    paths = [os.fsdecode(os.path.join(os.fsencode(tmp_path), name)) for name in names]
    for path in paths:
        Path(path).touch()
    (tmp_path / "out").mkdir()
    assert run("infer", *paths, "-o", tmp_path / "out").exit_code == 0
    written = list((tmp_path / "out").iterdir())
    assert len(written) == len(names)
    assert all(path.parent == tmp_path / "out" for path in written)
    for format_ in ("json", "csv", "html"):
        result = run("infer", *paths, "-f", format_)
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout + result.stderr
        assert len(result.stderr.splitlines()) == 1 + len(names)  # which model, and one line a clip


def test_doctor_names_a_bundle_that_is_no_text(tmp_path):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff.psamf"))
    assert run("doctor", "--bundle", path).exit_code == 2  # nothing is there
    os.mkdir(path)
    Path(path, "manifest.json").touch()
    result = run("doctor", "--json", "--bundle", path)
    assert result.exit_code == 4
    json.dumps(json.loads(result.stdout), ensure_ascii=False).encode()
