"""A training that was killed ends with the weights of one that was not; and what a checkpoint survives."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from safetensors.torch import load_file

from psamf_edge.compile.data import speech
from psamf_edge.compile.data.faces import load_faces
from psamf_edge.compile.data.speech import load_speech
from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.personality.model import PersonalityEncoder
from psamf_edge.compile.personality.vectors import cached_vectors
from psamf_edge.compile.training.batching import DrawnBatches, LengthBatches
from psamf_edge.compile.training.checkpoint import Checkpoint, remove
from psamf_edge.compile.training.state import State
from psamf_edge.face.features import VISION_FEATURES

TESTS = Path(__file__).parent
SAVEZ = np.savez  # which a test takes away


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


def test_a_stage_that_was_over_keeps_one_checkpoint_whenever_the_kill_came(checkpoint, said):
    checkpoint.write(State({"x": torch.zeros(3)}, {"result": {}}))
    assert checkpoint.before.is_file()  # as a kill leaves it that comes before `finish` has removed it
    reopen(checkpoint, said).forget_before()
    assert not checkpoint.before.exists()
    checkpoint.write(State({"x": torch.zeros(3)}, {"result": {}}))
    remove(checkpoint.path)
    assert list(checkpoint.path.parent.iterdir()) == []


def test_what_a_library_leaves_beside_its_file_goes_the_next_time(checkpoint, monkeypatch):
    def killed(tensors, path, metadata):
        path.with_name(".tmpAbCdEf").write_bytes(b"half")  # as safetensors names it
        raise KeyboardInterrupt  # what comes next is not done, as after a kill

    before = {path.name for path in checkpoint.path.parent.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write(State({"x": torch.ones(1)}, {}))
    assert {path.name for path in checkpoint.path.parent.iterdir()} > before
    checkpoint.write(State({"x": torch.ones(1)}, {}))
    assert {path.name for path in checkpoint.path.parent.iterdir()} == before


def voices(folder):
    (folder / "speech").mkdir(exist_ok=True)
    (folder / "speech" / "03-01-05-01-01-01-01.wav").touch()
    return load_speech(folder / "speech", folder / "cache.npz").features[0]


class OneFace:
    """In the place of a FacePath: sees the same in each picture."""

    def start(self):
        pass

    def observe(self, image, time_ms):
        pass

    def features(self, start_ms, end_ms):
        return SimpleNamespace(values=np.ones((1, len(VISION_FEATURES)), np.float32))


def faces(folder):
    if not (folder / "archive.npz").exists():
        SAVEZ(folder / "archive.npz", images=np.zeros((2, 48, 48), np.uint8), labels=[0, 0], classes=["happy"])
    return load_faces(folder / "archive.npz", OneFace(), folder / "cache.npz").features


def personalities(folder):
    torch.manual_seed(0)
    config = BertConfig(vocabulary=10, width=8, heads=2, feed_forward=8, blocks=1, positions=8)
    return cached_vectors(PersonalityEncoder(config), [np.array([2, 5, 3])], folder / "cache.npz")


@pytest.mark.parametrize("make", [voices, faces, personalities])
def test_features_that_were_half_written_are_made_again(tmp_path, monkeypatch, make):
    monkeypatch.setattr(speech, "decode", lambda reader, path: np.zeros(16_000, np.float32))

    def half(file, **arrays):
        file.write(b"PK half of a file")
        raise KeyboardInterrupt  # what comes next is not done, as after a kill

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", half)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    assert not (tmp_path / "cache.npz").exists()
    first = make(tmp_path)
    assert len(first) > 0
    monkeypatch.delattr(np, "savez")
    assert np.array_equal(make(tmp_path), first)  # read, and not made again


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
