"""Every job of the campaign, killed twice. The long run is `python -m tests.kills`; its figures are kept as results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "kills.json"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children that it forks")
def test_nothing_is_lost(tmp_path):
    pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")
    output = tmp_path / "kills.json"
    command = [sys.executable, "-m", "tests.kills", "--rounds", "2", "--seed", "1", "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert record["complaints"] == 0
    assert record["finished after kills"] == record["equal to a run without a stop"] > 0


def test_the_recorded_campaign_lost_nothing():
    record = json.loads(RESULTS.read_text())
    assert record["complaints"] == 0
    assert record["kills"] >= 100
    assert record["finished after kills"] == record["equal to a run without a stop"]
