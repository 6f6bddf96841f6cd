"""What a bundle may say about itself, on its way to a terminal: every command that repeats it repeats it harmlessly."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from fake_analyzer import FakeAnalyzer

from psamf_edge.bench.record import Record
from psamf_edge.bench.series import Series
from psamf_edge.bench.tables import document, tables_of
from psamf_edge.cli import main
from psamf_edge.report.escape import shown
from psamf_edge.result import ModelIdentity
from tests.attacks.bundles import rewrite, write_small

EVIL = "\x1b[31mred\x1b]0;owned\x07\r\npsamf-edge: all is well ‮gpj\x9b2J"


def harmless(text: str) -> None:
    assert all(line.isprintable() for line in text.splitlines())
    assert not [line for line in text.splitlines() if line.startswith("psamf-edge: all is well")]


CHANGES = {
    "schema": lambda manifest: manifest.update(schema=EVIL),
    "target": lambda manifest: manifest.update(target=EVIL),
    "precision": lambda manifest: manifest.update(precision=EVIL),
    "name": lambda manifest: manifest.update(name=EVIL),
    "licence": lambda manifest: manifest.update(licence=EVIL),
    "file": lambda manifest: manifest["files"].update({EVIL: {"sha256": "0" * 64, "size": 1}}),
    "hash": lambda manifest: manifest["files"]["vocab.txt"].update(sha256=EVIL),
    "shape": lambda manifest: manifest["shapes"].update({EVIL: 1}),
    "step": lambda manifest: manifest["plan"][0].update(name=EVIL),
    "input": lambda manifest: manifest["plan"][0].update(inputs=[EVIL]),
    "key": lambda manifest: manifest.update({EVIL: 1}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_manifest_that_means_harm_to_the_terminal(tmp_path, what):
    bundle = write_small(tmp_path / "evil.psamf", b"no model")
    rewrite(bundle, CHANGES[what])
    for arguments in (["doctor"], ["infer", "--text", "good"]):
        done = CliRunner().invoke(main, [*arguments, "--bundle", str(bundle)])
        assert done.exit_code in ((0, 4) if arguments == ["doctor"] else (1, 3, 4))  # doctor runs no model
        assert "Traceback" not in done.output
        assert "unexpected" not in done.stderr
        harmless(done.stdout)
        harmless(done.stderr)
        assert len(done.stderr.splitlines()) <= 1  # the one sentence


def test_a_model_that_runs_under_such_a_name(monkeypatch):
    fake = FakeAnalyzer()
    fake.model = ModelIdentity(EVIL, "ab" * 32, EVIL, EVIL)
    fake.note, fake.warnings = EVIL, [EVIL]
    monkeypatch.setattr("psamf_edge.cli.options.Analyzer", fake.open)
    for format_ in ("json", "csv", "html", "srt", "vtt", "svg"):
        done = CliRunner().invoke(main, ["infer", "--text", "good", "-f", format_])
        assert done.exit_code == 0
        harmless(done.stderr)
        assert not {"\x1b", "\x07", "\x9b", "‮"} & set(done.stdout)


@pytest.mark.parametrize("format_", ["text", "markdown"])
def test_a_benchmark_of_such_a_bundle(format_):
    series = [Series(EVIL, "cold start", EVIL, "ms", (1.0, 2.0))]
    record = Record("2026-01-01T00:00:00+00:00", {"cpu": EVIL}, {"clip": EVIL, "bundles": [EVIL]},
                    {"name": EVIL, "sha256": "", "duration_ms": 1, "utterances": 1}, {EVIL: {"name": EVIL}}, {},
                    [EVIL], [EVIL], series)  # fmt: skip
    harmless(document([EVIL], tables_of(record), record.warnings, record.notes, format_))


def test_lines_that_stay_lines():
    assert shown("  two\n\tlines\x1b[2J") == "  two\n        lines\ufffd[2J"
