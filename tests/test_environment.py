"""The real command where the machine is odd: full, read-only, poor, foreign. One sentence, the right code, no loss."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import media_files as files
import pytest

BUFFERING = [pytest.param(None, id="buffered", marks=pytest.mark.slow), pytest.param("1", id="unbuffered")]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="odd as Linux can be")
WAIT_S = 60  # for one command; a second or two, where nothing else runs
UNSET = dict.fromkeys(("PYTHONUNBUFFERED", "LANG", "LC_ALL", "LC_CTYPE", "PSAMF_EDGE_CACHE", "PSAMF_EDGE_DEBUG"))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "psamf_edge", *map(str, arguments)]


def run(*arguments: object, before=(), env=None, stdout=subprocess.PIPE, **options) -> subprocess.CompletedProcess:
    """The command, in an environment that is this one's but for `env` (None: unset). before: what it is run with."""
    chosen = {name: value for name, value in {**os.environ, **UNSET, **(env or {})}.items() if value is not None}
    done = subprocess.run(
        [*before, *command(*arguments)], env=chosen, stdout=stdout, stderr=subprocess.PIPE, timeout=WAIT_S, **options
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert b"Exception ignored" not in done.stderr, done.stderr.decode()
    assert b"unexpected" not in done.stderr, done.stderr.decode()
    return done


def namespace(*setup: str, after: str = "") -> list[str]:
    """What runs a command where these lines of shell have changed the file systems, for it alone."""
    return ["unshare", "-rm", "sh", "-ec", "\n".join([*setup, '"$@" || code=$?', after, "exit ${code:-0}"]), "sh"]


def can(*words: str) -> bool:
    return bool(shutil.which(words[0])) and subprocess.run(words, capture_output=True).returncode == 0


mounts = pytest.mark.skipif(
    not can(*namespace("mount -t tmpfs none /tmp"), "true"), reason="no mounts of one's own are allowed here"
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A second of sound and pictures, and what is said."""
    path = files.write_clip(tmp_path_factory.mktemp("odd") / "talk.mp4", 1)
    path.with_suffix(".txt").write_text("It was a joy from the first minute to the last.")
    return path


@pytest.fixture(scope="module")
def score(clip):
    return scores(run("infer", clip))[0]


def scores(done: subprocess.CompletedProcess) -> list[float]:
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line)["score"] for line in done.stdout.splitlines()]


def sentence(done: subprocess.CompletedProcess, code: int) -> str:
    """The last line on stderr, which must be an error."""
    assert done.returncode == code, done.stderr.decode()
    *_, last = done.stderr.decode().splitlines()
    assert last.startswith("psamf-edge: error: ")
    assert last.endswith(".")
    return last


def limit(name: int, value: int):
    return lambda: resource.setrlimit(name, (value, value))


# Disks that are full


@pytest.mark.parametrize("buffered", BUFFERING)
def test_stdout_on_a_full_disk(clip, buffered):
    with open("/dev/full", "wb") as full:
        said = sentence(run("infer", clip, stdout=full, env={"PYTHONUNBUFFERED": buffered}), 1)
    assert "No space left on device" in said


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["json", "csv", "html"])
def test_an_output_on_a_full_disk(clip, format_):
    assert "No space left on device" in sentence(run("infer", clip, "-f", format_, "-o", "/dev/full"), 1)


@pytest.mark.parametrize("buffered", BUFFERING)
def test_a_stdout_that_takes_only_a_part(clip, tmp_path, buffered):
    """An unbuffered write may end early and say nothing; that must not pass for a whole page."""
    with open(tmp_path / "page.html", "wb") as page:
        done = run("infer", clip, "-f", "html", stdout=page, env={"PYTHONUNBUFFERED": buffered},
                   preexec_fn=limit(resource.RLIMIT_FSIZE, 4096))  # fmt: skip
    assert "File too large" in sentence(done, 1)


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_what_was_there(clip, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("of yesterday")
    done = run("infer", clip, "-f", "html", "-o", page, preexec_fn=limit(resource.RLIMIT_FSIZE, 4096))
    assert str(page) in sentence(done, 1)
    assert page.read_text() == "of yesterday"
    assert list(tmp_path.iterdir()) == [page]


@mounts
def test_a_small_disk_leaves_what_was_there(clip, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    before = namespace(
        f"mount -t tmpfs -o size=8k none {small}",
        f"echo of yesterday > {small}/page.html",
        after=f"ls -A {small}; cat {small}/*",
    )
    done = run("infer", clip, "-f", "html", "-o", small / "page.html", before=before)
    assert "No space left on device" in sentence(done, 1)
    assert done.stdout.decode().split("\n")[:2] == ["page.html", "of yesterday"]


@pytest.mark.slow
@mounts
def test_predictions_on_a_small_disk(clip, tmp_path):
    (tmp_path / "small").mkdir()
    rows = tmp_path / "rows.csv"
    rows.write_text("id,text,label\n" + "".join(f"{number},It was good.,1\n" for number in range(300)))
    before = namespace(f"mount -t tmpfs -o size=4k none {tmp_path / 'small'}")
    done = run("evaluate", rows, "--predictions", tmp_path / "small" / "out.csv", before=before)
    assert "No space left on device" in sentence(done, 1)


@mounts
def test_full_tmp_and_shm_while_decoding(clip, score):
    if any(Path(place).is_relative_to("/tmp") for place in (sys.executable, __file__)):
        pytest.skip("the interpreter or this checkout lies in /tmp, which this test covers")
    full = [
        f"mount -t tmpfs -o size=4k none {where}; cat /dev/zero > {where}/full 2>/dev/null || true"
        for where in ("/tmp", "/dev/shm")
    ]
    copy = ["mount -t tmpfs none /mnt", f"cp {clip} {clip.with_suffix('.txt')} /mnt"]  # it lies in /tmp itself
    assert scores(run("infer", f"/mnt/{clip.name}", before=namespace(*copy, *full))) == [score]


# Places that are missing or may not be written to


@pytest.mark.slow
@mounts
@pytest.mark.parametrize(
    "shm", ["-o ro", "-o mode=000"], ids=["read-only", "without rights"]
)  # fmt: skip
def test_shm_that_cannot_be_used(clip, score, shm):
    assert scores(run("infer", clip, before=namespace(f"mount -t tmpfs {shm} none /dev/shm"))) == [score]


@pytest.mark.slow
def test_a_home_that_is_read_only_or_none(clip, score, tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    for env in ({"HOME": str(home)}, {"HOME": "/nowhere"}, {"HOME": None, "USER": None, "LOGNAME": None}):
        assert scores(run("infer", clip, env={**env, "XDG_CACHE_HOME": None})) == [score]
        assert run("doctor", env={**env, "XDG_CACHE_HOME": None}).returncode == 0


@pytest.mark.skipif(
    not can("unshare", "-U", "--map-user=4711", "true"), reason="no user of one's own can be made up here"
)
def test_a_user_that_nobody_knows(clip, score):
    """As in a container that is run with --user 4711: no name, no home."""
    unknown = ["unshare", "-U", "--map-user=4711", "--map-group=4711"]
    env = {"HOME": None, "USER": None, "LOGNAME": None}
    assert scores(run("infer", clip, before=unknown, env=env)) == [score]


@pytest.mark.slow
def test_a_tmpdir_that_is_missing(clip, score, tmp_path):
    env = {"TMPDIR": "/nowhere"}
    assert scores(run("infer", clip, env=env)) == [score]
    assert run("infer", clip, "-f", "csv", "-o", tmp_path / "out.csv", env=env).returncode == 0


@pytest.mark.slow
def test_a_working_directory_that_is_gone(clip, score, tmp_path):
    """Absolute names work; relative ones are told to be missing."""
    before = ["sh", "-c", f'mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone; exec "$@"', "sh"]
    assert scores(run("infer", clip, before=before)) == [score]
    assert "does not exist" in sentence(run("infer", "talk.mp4", before=before), 1)
    assert sentence(run("infer", clip, "-f", "csv", "-o", "out.csv", before=before), 1)


# Limits and habits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [(resource.RLIMIT_NOFILE, 32), (resource.RLIMIT_STACK, 128 << 10), (resource.RLIMIT_CORE, 0)]
)
def test_limits_that_are_enough(clip, score, name, value):
    assert scores(run("infer", clip, preexec_fn=limit(name, value))) == [score]


@pytest.mark.slow
def test_too_few_open_files(clip):
    said = sentence(run("infer", clip, preexec_fn=limit(resource.RLIMIT_NOFILE, 10)), 3)
    assert "Too many open files" in said
    assert "ulimit -n" in said


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_umask_is_kept_to(clip, tmp_path, umask):
    out = tmp_path / "out.csv"
    assert run("infer", clip, "-f", "csv", "-o", out, preexec_fn=lambda: os.umask(umask)).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask


# Languages and names

LOCALES = [
    {"LANG": "C"},
    {"LC_ALL": "POSIX"},
    {"LC_ALL": "tr_TR.UTF-8"},
    {"LC_ALL": "xx_YY.KOI8-R"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
]


@pytest.mark.slow
@pytest.mark.parametrize("env", LOCALES, ids=lambda env: ",".join(env.values()))
def test_locales(clip, score, tmp_path, env):
    named = Path(shutil.copy(clip, tmp_path / "Iıİi naïve 日本.mp4"))
    shutil.copy(clip.with_suffix(".txt"), named.with_suffix(".txt"))
    said = "Iyi çok güzel — naïve İ."
    assert scores(run("infer", named, env=env)) == [score]
    spoken = [json.loads(run("infer", "--text", said, env=e).stdout)["segments"][0]["text"] for e in (env, {})]
    assert spoken == [said, said]
    for format_ in ("csv", "html", "srt", "svg"):
        out = tmp_path / f"aus gäbe.{format_}"
        assert run("infer", named, "-f", format_, "-o", out, env=env).returncode == 0
        out.read_text("utf-8")
    rows = tmp_path / "größe.csv"
    rows.write_text(f"id,clip,text,label\nü,{named.name},{said},1\n", encoding="utf-8")
    done = run("evaluate", rows, env=env)
    ascii_names = int("PYTHONUTF8" in env)  # where Python may spell no other, the row says so
    assert json.loads(done.stdout)["failed"] == ascii_names == done.stderr.count(b"cannot be opened")


ODD_NAMES = [b"\xff\xfe", b"two\nlines", b"\x1b[31mred", "abc‮gpj".encode(), b"-q", b"=1+1", b"'\"<b>&amp;"]


def copy_oddly(clip: Path, folder: Path) -> None:
    for name in ODD_NAMES:
        for source in (clip, clip.with_suffix(".txt")):
            shutil.copy(source, folder / (os.fsdecode(name) + source.suffix))


def test_odd_names_through_a_batch(clip, score, tmp_path):
    """As clips in an odd folder, in every listing and format; each is read, and none writes a second line."""
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"fo\xfflder\nof")))
    folder.mkdir()
    copy_oddly(clip, folder)
    done = run("infer", folder)
    assert scores(done) == [score] * len(ODD_NAMES)
    assert all(line.isprintable() and line.startswith("psamf-edge: ") for line in done.stderr.decode().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["json", "csv", "html", "srt", "vtt", "svg"])
def test_odd_names_in_every_format(clip, tmp_path, format_):
    folder, out = tmp_path / "clips", Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"o\xffut\n")))
    folder.mkdir()
    out.mkdir()
    copy_oddly(clip, folder)
    assert run("infer", folder, "-f", format_, "-o", out).returncode == 0
    written = sorted(out.iterdir())
    assert len(written) == len(ODD_NAMES)
    for path in written:
        text = path.read_text("utf-8")
        assert "\x1b" not in text
        assert "‮" not in text
        if format_ == "csv":
            assert all(not cell.startswith("=") for row in csv.reader(text.splitlines()) for cell in row)


@pytest.mark.slow
def test_a_label_file_names_odd_clips(clip, tmp_path):
    named = shutil.copy(clip, tmp_path / "two\nlines \x1b[31m.mp4")
    rows = tmp_path / "rows\n.csv"
    with rows.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "clip", "text", "label"], ["a\nb", named.name, "Good.", 1], ["=c", "gone\n.mp4", "", 1]]
        )
    done = run("evaluate", rows, "--predictions", tmp_path / "out.csv")
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] == 1
    assert all(line.isprintable() for line in done.stderr.decode().splitlines())
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["id", "a\nb", "'=c"]


# Streams that are closed


def closing(*numbers: int):
    return lambda: [os.close(number) for number in numbers]


@pytest.mark.parametrize("closed", [pytest.param((0,), marks=pytest.mark.slow), (0, 2)], ids=str)
def test_closed_streams_that_are_not_needed(clip, score, closed):
    done = subprocess.run(command("infer", clip), preexec_fn=closing(*closed), stdout=subprocess.PIPE, timeout=WAIT_S)
    assert scores(done) == [score]


@pytest.mark.parametrize("closed", [(1,), pytest.param((0, 1), marks=pytest.mark.slow)], ids=str)
def test_a_closed_stdout(clip, closed):
    assert "standard output" in sentence(run("infer", clip, stdout=None, preexec_fn=closing(*closed)), 2)


@pytest.mark.slow
def test_closed_streams_get_into_no_file(clip, tmp_path):
    """A library that prints to 1 or 2 must not find the output there."""
    out = tmp_path / "out.csv"
    done = subprocess.run(command("infer", clip, "-f", "csv", "-o", out), preexec_fn=closing(0, 1, 2), timeout=WAIT_S)
    assert done.returncode == 0
    assert out.read_text().startswith("clip,start_ms")
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.parametrize("buffered", BUFFERING)
def test_a_reader_that_has_left(clip, buffered):
    """As `| head -1` does: quiet, and no success."""
    there, here = os.pipe()
    os.close(there)
    done = run("infer", clip, "-q", stdout=here, env={"PYTHONUNBUFFERED": buffered})
    os.close(here)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.slow
def test_messages_that_nobody_can_read(clip, score):
    there, here = os.pipe()
    os.close(there)
    with open("/dev/full", "wb") as full:
        for stream in (full, here):
            done = subprocess.run(command("infer", clip), stdout=subprocess.PIPE, stderr=stream, timeout=WAIT_S)
            assert scores(done) == [score]
    os.close(here)


@pytest.mark.slow
def test_a_terminal_that_others_made_non_blocking(clip, score):
    there, here = os.pipe()
    os.set_blocking(here, False)
    done = run("infer", clip, stdout=here)
    os.close(here)
    assert done.returncode == 0
    with os.fdopen(there) as answers:
        assert json.loads(answers.read())["score"] == score
