"""The kernels on a GPU: python -m pytest -m gpu. Every test draws its inputs anew and prints the seed if it fails."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from psamf_edge.errors import MissingDependencyError
from psamf_edge.kernels.cross_modal_attention import lab, validation
from psamf_edge.kernels.cross_modal_attention.versions import VERSIONS, Sizes

pytestmark = pytest.mark.gpu
SHIPPED = [version for version in VERSIONS if version.name.startswith("4 shipped")]


@pytest.fixture(scope="module")
def bench():
    try:
        with lab.open_bench() as opened:
            yield opened
    except MissingDependencyError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def seed() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])


def test_every_version_agrees_with_the_oracle(bench, seed):
    assert lab.validate(bench, seed), f"seed {seed}"


@pytest.mark.parametrize("version", SHIPPED, ids=lambda version: version.name)
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 127, 128, 129, 500, 2048])
def test_every_length_with_poisoned_padding_and_output(bench, seed, version, length):
    lengths = np.array([length, 2048 - length])
    case = validation.draw(np.random.default_rng(seed), version.dtype, (1, 1, 2048, 2048), lengths)
    rival = bench.rival(version, case, Sizes(1, 1, 2048, 2048))  # outputs hold NaN
    rival.enqueue()
    expected = case.expected()
    assert validation.error(rival.result(), expected) <= case.allowed_error(expected), f"seed {seed}"


@pytest.mark.parametrize("version", SHIPPED, ids=lambda version: version.name)
def test_a_graph_of_many_runs_gives_the_same_bits(bench, seed, version):
    """A result that moves between runs is a race."""
    case = validation.draw(np.random.default_rng(seed), version.dtype, (8, 4, 500, 100))
    rival = bench.rival(version, case, Sizes(8, 4, 500, 100))
    rival.enqueue()
    first = rival.result().copy()
    for _ in range(20):
        rival.capture(5)()
        assert np.array_equal(rival.result(), first), f"seed {seed}"


def test_compute_sanitizer_finds_nothing(bench):
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("compute-sanitizer is not on PATH: it comes with the CUDA toolkit")
    assert subprocess.run([sys.executable, "-m", "psamf_edge.kernels.sanitize"]).returncode == 0
