"""The long run: every target in turn for its share of the time. `python -m tests.fuzz --seconds 300`

Writes what was tried to benchmarks/results/fuzz.json, and each input that did harm beside the corpus, under
tests/fuzz/found/. With `--atheris TARGET` one target runs under libFuzzer for that time (pip install atheris).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import platform
import random
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

import psamf_edge
from tests.fuzz.mutate import MAX_BYTES, inputs
from tests.fuzz.targets import CORPUS, TARGETS, Target

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "fuzz.json"
FOUND = CORPUS.parent / "found"
ROUND = 200  # inputs that Hypothesis makes from one seed


def fuzz(target: Target, seconds: float) -> dict[str, float | int]:
    """Give a target inputs for so long. A failure is kept as a file, and the run goes on."""
    tried = failures = 0
    last = b""
    started = time.monotonic()

    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(target))
    def one_round(data: bytes) -> None:
        nonlocal tried, last
        tried, last = tried + 1, data
        target.run(data)

    while time.monotonic() - started < seconds:
        try:
            seed(random.getrandbits(64))(one_round)()
        except Exception as error:  # Hypothesis ends with the smallest input that fails
            failures += 1
            FOUND.mkdir(exist_ok=True)
            name = f"{target.name}-{hashlib.sha256(last).hexdigest()[:16]}"
            (FOUND / name).write_bytes(last)
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
    return {"inputs": tried, "failures": failures, "seconds": round(time.monotonic() - started, 1)}


def run_atheris(name: str, seconds: float) -> None:
    """libFuzzer from the corpus, led by the coverage of psamf_edge; ends at the first harm."""
    import atheris

    for module in [module for module in sys.modules if module.startswith(("psamf_edge", "tests.fuzz.targets"))]:
        del sys.modules[module]  # to be imported again, with counters in every branch
    with atheris.instrument_imports(include=["psamf_edge"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
    options = [f"-max_len={MAX_BYTES}", f"-max_total_time={seconds:.0f}"]
    with tempfile.TemporaryDirectory() as grown:  # libFuzzer adds to the first folder, and only reads the second
        atheris.Setup([sys.argv[0], *options, grown, str(CORPUS / name)], target.run)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="of the whole run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--atheris", choices=TARGETS)
    arguments = parser.parse_args()
    if arguments.atheris:
        run_atheris(arguments.atheris, arguments.seconds)
        return 0
    found = {name: fuzz(target, arguments.seconds / len(TARGETS)) for name, target in TARGETS.items()}
    document = {
        "command": f"python -m tests.fuzz --seconds {arguments.seconds:g}",
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "psamf_edge": psamf_edge.__version__,
        **{name: version(name) for name in ("hypothesis", "numpy")},
        "inputs": sum(target["inputs"] for target in found.values()),
        "failures": sum(target["failures"] for target in found.values()),
        "targets": found,
    }
    arguments.output.write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))
    return 1 if document["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
