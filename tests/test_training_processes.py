"""Two processes over gloo: the teacher's losses compare samples, also those that the other process has; and what
teachers know is read by one of the two.
"""

import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from safetensors.torch import load_file
from tiny_training import run_processes

# The loss and the gradients of the first step of a training, in float32, in bfloat16, and as they would be if each
# process compared its own samples only.
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from dataclasses import replace
from safetensors.torch import save_file
from test_training_teacher import BERT, SETTINGS, make_teacher, open_run, vectors
from tiny_training import compose, make_corpora
from psamf_edge.compile.model.teacher import TeacherConfig
from psamf_edge.compile.training.device import Compute, open_compute
from psamf_edge.compile.training.loop import Trainer
from psamf_edge.compile.training.teacher_stage import train_teacher
compute, folder = open_compute("cpu"), Path(sys.argv[2])
assert compute.world == int(sys.argv[3])
corpora, settings, step = make_corpora(32), replace(SETTINGS, epochs=1, gradient_clip=1e9), Trainer.step
recorded = {}

def record(trainer, loss):
    step(trainer, loss)
    if trainer.done == 1:
        grads = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        recorded.update({"loss": loss.detach()[None], **grads})
        recorded.update({name: value.clone() for name, value in recorded.items()})

Trainer.step = record
for preset in ("drawn", "released"):
    for way in ("float32", "bfloat16", "apart"):
        if way == "apart":
            Compute.all_rows, whole = (lambda self, own: own), Compute.all_rows
        teacher = make_teacher(corpora, getattr(TeacherConfig, preset), dropout=0.0)
        run = replace(open_run(folder / f"{preset}-{way}-{compute.rank}"), compute=compute)
        train_teacher(teacher, compose(corpora), vectors(corpora), replace(settings, bfloat16=way == "bfloat16"), run)
        assert all(torch.isfinite(p).all() for p in teacher.parameters())
        save_file(recorded, folder / f"{preset}-{way}-{compute.rank}.safetensors")
        recorded.clear()
    Compute.all_rows = whole
"""


@pytest.fixture(scope="module")
def first_step(tmp_path_factory):
    """f(name): the loss and the gradients that were recorded, for a preset, a way, and a rank in as many processes."""
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    folder = tmp_path_factory.mktemp("processes")
    for world in (1, 2):
        run_processes(PROGRAM, folder / str(world), world)
    return lambda world, name: load_file(folder / str(world) / f"{name}.safetensors")


def distance(found, expected) -> float:
    """The largest difference of two gradients, as a share of the largest gradient."""
    assert found.keys() == expected.keys()
    names = found.keys() - {"loss"}
    largest = max(float(expected[name].abs().max()) for name in names)
    return max(float((found[name] - expected[name]).abs().max()) for name in names) / largest


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["drawn", "released"])
def test_two_processes_have_one_s_loss_and_gradients(first_step, preset):
    one, two, other = (first_step(world, f"{preset}-float32-{rank}") for world, rank in ((1, 0), (2, 0), (2, 1)))
    assert all(torch.equal(tensor, other[name]) for name, tensor in two.items())
    # float32 sums of some thousand products in another order
    assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-5)
    assert distance(two, one) < 1e-5
    apart = first_step(2, f"{preset}-apart-0")
    assert abs(float(apart["loss"] - one["loss"])) > 1e-2, "half of the negatives are not the same task"
    assert distance(apart, one) > 1e-3  # a hundred times what rounding makes
    # bfloat16 has eight bits, and the two ways of adding up part early
    in_halves = [first_step(world, f"{preset}-bfloat16-0") for world in (1, 2)]
    assert float(in_halves[1]["loss"]) == pytest.approx(float(in_halves[0]["loss"]), rel=2e-2)


READING = """
import sys
from pathlib import Path
import numpy as np
from psamf_edge.compile.distillation.knowledge import Knowledge
from psamf_edge.compile.distillation.words import Lesson, WordTeacher
from psamf_edge.compile.training.device import open_compute
compute, folder = open_compute("cpu"), Path(sys.argv[2])

class Reader(WordTeacher):
    def __init__(self):
        cache = folder / "knowledge.npz" if compute.is_main else None
        self.lesson, self.read = Lesson(cache=cache, once=compute.once), 0

    def ask(self, sentences):
        self.read += len(sentences)
        sums = np.array([ids.sum() for ids in sentences], np.float32)
        return Knowledge(sums, sums[:, None], sums[:, None])

sentences = [np.array([2, token, 3]) for token in range(10, 20)]
read = []
for share in (4, 10, 10):  # a run that was cut short, one that goes on, one that has it all
    reader = Reader()
    assert reader.known(sentences[:share]).scores.tolist() == [ids.sum() for ids in sentences[:share]]
    read.append(reader.read)
assert read == ([4, 6, 0] if compute.is_main else [0, 0, 0]), read
"""


@pytest.mark.slow
def test_two_processes_read_with_the_teachers_once(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    run_processes(READING, tmp_path / "reading", 2)
