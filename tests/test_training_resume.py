"""A training that was killed ends with the weights of one that was not; and what a checkpoint survives."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from safetensors.torch import load_file

from psamf_edge.compile.training.batching import DrawnBatches, LengthBatches
from psamf_edge.compile.training.checkpoint import Checkpoint
from psamf_edge.compile.training.state import State

TESTS = Path(__file__).parent


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_kill_9_changes_no_bit_of_the_weights(tmp_path, seed):
    program = [sys.executable, str(TESTS / "tiny_training.py"), str(tmp_path), str(seed)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[1]) >= 1
    assert "goes on from step" in done.stderr
    whole, killed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor.view(-1).view(torch.uint8), killed[name].view(-1).view(torch.uint8)), name


@pytest.fixture
def said():
    return []


@pytest.fixture
def checkpoint(tmp_path, said):
    """Of a stage that has written twice: 1, then 2."""
    made = Checkpoint(tmp_path / "text.safetensors", {"stage": "text"}, said.append)
    for number in (1, 2):
        made.write(State({"x": torch.full((3,), float(number))}, {"part": {"n": number}}))
    return made


def reopen(checkpoint, said, **identity):
    return Checkpoint(checkpoint.path, {"stage": "text"} | identity, said.append)


def test_a_checkpoint_gives_back_what_it_was_given(checkpoint, said):
    tensors = {
        "half": torch.randn(2, 3).to(torch.bfloat16), "scalar": torch.tensor(7.0), "bytes": torch.get_rng_state(),
        "empty": torch.zeros(0, 4), "turned": torch.arange(6).view(2, 3).T,
    }  # fmt: skip
    values = {"generator": {"state": 2**127 + 1}, "lr": 0.1 + 0.2, "none": None}
    checkpoint.write(State(tensors, values))
    found = reopen(checkpoint, said).read()
    assert found.values == values
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert not said


def cut_short(data):
    return data[: len(data) // 2]


def flip_a_weight(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", [cut_short, flip_a_weight, lambda data: b"", lambda data: b"junk" * 100])
def test_a_torn_checkpoint_is_found_and_the_one_before_it_used(checkpoint, said, damage):
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    again = reopen(checkpoint, said)
    assert again.read().values["part"]["n"] == 1
    assert len(said) == 1
    assert "is passed over" in said[0]
    again.write(State({"x": torch.zeros(1)}, {"part": {"n": 3}}))  # must not put the torn file in the good one's place
    assert checkpoint.before.is_file()
    checkpoint.path.unlink()
    assert reopen(checkpoint, said).read().values["part"]["n"] == 1


def test_a_kill_between_the_two_renames_loses_one_checkpoint_only(checkpoint, said):
    checkpoint.path.replace(checkpoint.before)
    assert reopen(checkpoint, said).read().values["part"]["n"] == 2


def test_another_trainings_checkpoint_is_not_used(checkpoint, said):
    assert reopen(checkpoint, said, steps=9).read() is None
    assert all("another training wrote it" in line for line in said)
    assert len(said) == 2


def test_writing_keeps_within_its_share_of_the_time(checkpoint):
    assert checkpoint.spent > 0.0
    assert not checkpoint.due()  # nothing but writing has happened
    checkpoint.begun -= 1000.0 * checkpoint.spent
    assert checkpoint.due()


@pytest.mark.parametrize("stop", [0, 1, 49, 50, 51, 77, 78])
def test_batches_go_on_where_they_stopped(stop):
    """Against an iteration that never stopped, with another user of the generator between the batches."""

    def source(rng):
        lengths = np.random.default_rng(5).integers(3, 90, 630)
        return LengthBatches(lengths, 8, rng)

    def go(batches, rng, count=None):
        rows = []
        while count is None or len(rows) < count:
            for batch in batches:
                rows.append((batch.tolist(), rng.random()))
                if len(rows) == count:
                    break
            if count is None:
                break
        return rows

    rng = np.random.default_rng(1)
    whole = source(rng)
    assert len(whole) == 78
    expected = go(whole, rng)
    rng = np.random.default_rng(1)
    first = source(rng)
    rows = go(first, rng, stop)
    rng_state, state = rng.bit_generator.state, first.state()
    rng = np.random.default_rng(9)
    second = source(rng)
    rng.bit_generator.state = rng_state
    second.restore(state)
    assert rows + go(second, rng) == expected


def test_drawn_batches_end_an_epoch_where_they_would_have():
    batches = DrawnBatches(np.full(100, 0.01), 10, np.random.default_rng(0))
    for count, _ in enumerate(batches, 1):
        if count == 4:
            break
    other = DrawnBatches(np.full(100, 0.01), 10, np.random.default_rng(0))
    other.restore(batches.state())
    assert len(list(other)) == 6
    assert len(list(other)) == 10
