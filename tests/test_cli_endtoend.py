"""The command line as a process, with the bundle and the clip that ship."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psamf_edge.bundle import DEFAULT_BUNDLE
from psamf_edge.result import MODALITIES

SAMPLE = Path(__file__).parents[1] / "psamf_edge" / "data" / "sample.mp4"

pytestmark = pytest.mark.skipif(not DEFAULT_BUNDLE.is_dir(), reason=f"the default bundle {DEFAULT_BUNDLE} is not built")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "psamf_edge", *map(str, arguments)]


def run(*arguments: str | Path, **options) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command(*arguments), capture_output=True, timeout=60, check=False, **options)
    assert b"Traceback" not in done.stderr
    return done


def test_the_sample_clip_needs_no_training_package():
    code = f"""
import sys
from psamf_edge.cli import main
try:
    main(["infer", "-q", {str(SAMPLE)!r}])
finally:
    print({{"torch", "onnx", "transformers", "av"}} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "set()\n")
    result = json.loads(done.stdout)
    assert result["schema"] == "psamf-edge/1"
    assert -3 <= result["score"] <= 3
    assert len(result["segments"]) == 3
    for segment in result["segments"]:
        assert {name: part["state"] for name, part in segment["modalities"].items()} == dict.fromkeys(
            MODALITIES, "present"
        )


def test_words_alone_have_the_right_sign():
    good = json.loads(run("infer", "--text", "I loved it, a wonderful film.").stdout)
    bad = json.loads(run("infer", "--text", "I hated it, a terrible film.").stdout)
    assert good["score"] > 0 > bad["score"]


def test_hostile_inputs_are_sentences(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(os.urandom(20_000))
    (tmp_path / "cut.mp4").write_bytes(SAMPLE.read_bytes()[:2000])
    (tmp_path / "no clips").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    names = [
        "empty.mp4",
        "junk.mp4",
        "cut.mp4",
        "no clips",
        "pipe.mp4",
        "missing.mp4",
        "https://example.org/a.mp4",
        "*.mkv",
    ]
    done = run("infer", "-q", *names, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == len(names)
    assert all(line.startswith("psamf-edge: error: ") for line in lines)


def test_evaluate(tmp_path):
    data = tmp_path / "data.csv"
    data.write_text(
        f"id,clip,text,label\n1,,What a great day!,2\n2,,This is awful.,-2\n3,{SAMPLE},,0\n4,gone.mp4,,1\n",
        encoding="utf-8",
    )
    done = run("evaluate", "-q", data, "--predictions", tmp_path / "out.csv")
    assert done.returncode == 1
    metrics = json.loads(done.stdout)
    assert (metrics["n"], metrics["failed"]) == (3, 1)
    assert metrics["acc2_non0"] == 1.0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5


def test_a_reader_that_stops_reading_gets_no_traceback():
    process = subprocess.Popen(
        command("infer", "-q", "--text", "Fine."), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the decoder child through /proc")
def test_ctrl_c_ends_it_at_once_and_leaves_no_child(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.mp4").symlink_to(SAMPLE)
    process = subprocess.Popen(
        command("infer", tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where a shell runs us in background
    )
    process.stdout.readline()  # the first clip is done, the next one has begun
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert stderr.decode().splitlines()[-1] == "psamf-edge: interrupted"
    assert b"Traceback" not in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)
