"""What an import brings with it. Each check runs in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import psamf_edge

NEVER = {
    "torch",
    "onnx",
    "onnxscript",
    "transformers",
    "tokenizers",
    "cv2",
    "librosa",
    "scipy",
    "sklearn",
    "matplotlib",
}
HEAVY = NEVER | {"numpy", "av", "onnxruntime", "click"}


def imported_by(code: str) -> set[str]:
    """Top-level modules loaded after `code` has run."""
    listing = "\nimport sys; print('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code + listing], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_the_package_itself_is_light():
    assert not imported_by("import psamf_edge; psamf_edge.__version__") & HEAVY


@pytest.mark.parametrize(
    "code",
    [
        "import psamf_edge.analyzer, psamf_edge.scorer",
        "import psamf_edge.report, psamf_edge.metrics",
        "import psamf_edge.cli.infer, psamf_edge.cli.evaluate",
        "import psamf_edge.backends.onnxruntime, psamf_edge.backends.tensorrt",
    ],
)
def test_what_scores_needs_no_training_package(code):
    loaded = imported_by(code)
    assert "numpy" in loaded  # the check can see imports
    assert not loaded & NEVER
    assert "av" not in loaded  # only the decoder child loads it


def test_help_is_quick():
    code = "import contextlib, io\nfrom psamf_edge.cli import main\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    code += "    try: main(['--help'])\n    except SystemExit: pass"
    assert not imported_by(code) & (HEAVY - {"click"})


def test_the_public_names_are_there():
    for name in psamf_edge.__all__:
        assert getattr(psamf_edge, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        psamf_edge.nothing_like_it  # noqa: B018


def test_the_version_is_the_installed_one():
    assert psamf_edge.__version__ == version("psamf-edge")


def test_load_gives_an_analyzer(monkeypatch):
    monkeypatch.setattr("psamf_edge.analyzer.Analyzer", lambda *given, **named: (*given, *named.values()))
    assert psamf_edge.load() == (None, "auto", 1, None, None)
    assert psamf_edge.load("x.psamf", "cpu", "key.pub") == ("x.psamf", "cpu", 1, "key.pub", None)
