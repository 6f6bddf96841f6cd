"""The loop around a trainer: selection on validation, the log, several processes."""

import csv
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the compile extra (PyTorch) is not installed")

from safetensors.torch import load_file
from tiny_training import run_processes

from psamf_edge.compile.training.batching import DrawnBatches
from psamf_edge.compile.training.device import Compute, open_compute
from psamf_edge.compile.training.epochs import Run, Validation, run_epochs
from psamf_edge.compile.training.log import Log
from psamf_edge.compile.training.loop import Trainer
from psamf_edge.compile.training.settings import LoopSettings
from psamf_edge.errors import MissingDependencyError, UsageError

SETTINGS = {"batch": 4, "warmup": 0.0, "average_decay": 0.5, "bfloat16": False}


@dataclass
class Setup:
    """A line fitted to a line: 4 steps an epoch, 12 in all."""

    trainer: Trainer
    batches: DrawnBatches
    rng: np.random.Generator
    run: Run
    lines: list

    def train(self, validation=None):
        x = torch.arange(16.0)[:, None] / 16

        def loss_of(rows):
            loss = (self.trainer.model(x[rows]) - 3.0 * x[rows]).square().mean()
            return loss, {"loss": loss.detach()}

        run_epochs(self.trainer, self.batches, loss_of, self.run, "line", {"rows": self.rng}, validation, log_every=5)
        return {name: p.detach().clone() for name, p in self.trainer.model.named_parameters()}

    def log(self):
        self.run.log.file.close()
        with Path(self.run.log.file.name).open(newline="") as file:
            return [(int(step), name, float(value)) for _, step, name, value in csv.reader(file)]


@pytest.fixture
def make(tmp_path):
    def setup(checkpoints=False, **settings):
        settings = LoopSettings(**{**SETTINGS, **settings})
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 1))
        rng, lines = np.random.default_rng(0), []
        batches = DrawnBatches(np.full(16, 1 / 16), settings.batch, rng)
        trainer = Trainer(model.train(), [{"params": list(model.parameters()), "lr": 0.05}], 12, settings)
        folder = tmp_path / "checkpoints" if checkpoints else None
        return Setup(trainer, batches, rng, Run(Log(tmp_path / "log.csv", lines.append), folder=folder), lines)

    return setup


def scripted(setup, values, seen):
    """A validation whose metric is what the script says; it keeps the weights it was shown."""

    def evaluate():
        assert not setup.trainer.model.training
        seen.append({name: p.detach().clone() for name, p in setup.trainer.model.named_parameters()})
        return {"mae": values[len(seen) - 1], "other": 0.0}

    return Validation(evaluate, "mae")


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_without_patience_the_last_weights_are_kept_and_nothing_is_evaluated(make):
    plain = make().train()
    setup, seen = make(), []
    assert same(setup.train(scripted(setup, [], seen)), plain)
    assert not seen
    assert setup.trainer.done == 12
    assert [(step, name) for step, name, _ in setup.log() if name == "loss"] == [(5, "loss"), (10, "loss")] * 2


def test_evaluating_changes_no_weight(make):
    plain = make().train()
    setup, seen = make(validate_every=5), []
    assert same(setup.train(scripted(setup, [1.0, 2.0, 3.0], seen)), plain)
    assert len(seen) == 3  # after steps 5, 10 and 12
    assert same(seen[-1], plain)


def test_the_best_weights_are_kept_and_the_log_names_the_metric(make):
    setup, seen = make(patience=5), []
    kept = setup.train(scripted(setup, [0.9, 0.5, 0.7], seen))
    assert same(kept, seen[1])
    assert not same(kept, seen[2])
    assert any("step 8, the best by mae 0.5000 on validation" in line for line in setup.lines)
    rows = setup.log()
    assert [(s, v) for s, n, v in rows if n == "valid.mae"] == [(4, 0.9), (8, 0.5), (12, 0.7)]
    assert (12, "best.mae", 0.5) in rows


def test_patience_ends_the_training(make):
    setup, seen = make(patience=2, validate_every=2), []
    kept = setup.train(scripted(setup, [0.5, 0.6, 0.5, 0.1], seen))
    assert setup.trainer.done == 6  # equal is not better
    assert same(kept, seen[0])


def test_more_is_better_where_the_metric_says_so(make):
    setup, seen = make(patience=5), []
    validation = scripted(setup, [0.5, 0.9, 0.7], seen)
    assert same(setup.train(Validation(validation.evaluate, "mae", higher=True)), seen[1])


def test_a_stage_that_is_over_is_not_repeated(make):
    first = make(checkpoints=True)
    weights, after = first.train(), torch.rand(1)
    second = make(checkpoints=True)
    second.trainer.step = None  # must not be called
    assert same(second.train(), weights)
    assert torch.equal(torch.rand(1), after)  # the chance that the next stage draws from
    assert second.trainer.done == 12


def test_a_batch_must_be_shared_evenly():
    class Three(Compute):
        world = 3

    with pytest.raises(UsageError, match="A batch of 32 cannot be shared by 3 processes"):
        Three().check_batch(32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_missing_gpu_is_a_sentence():
    with pytest.raises(MissingDependencyError, match="use --device cpu"):
        open_compute("cuda")
    assert open_compute("auto").device.type == "cpu"


def test_one_process_does_not_import_accelerate(tmp_path):
    code = "import sys\nfrom psamf_edge.compile.training import student, device\ndevice.open_compute('cpu')\n"
    code += "assert 'accelerate' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_tensorboard_gets_what_the_csv_gets(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path / "log.csv", lambda line: None, tmp_path / "board")
    log.write("text", 50, {"loss": 0.25})
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("text/loss")] == [(50, 0.25)]


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from tiny_training import WITHOUT_DROPOUT, train_all
from psamf_edge.compile.training.device import open_compute
compute = open_compute("cpu")
assert compute.world == int(sys.argv[3])
folder = Path(sys.argv[2])
for name, options in {"dropout": {}, "none": WITHOUT_DROPOUT}.items():
    student = train_all(folder / name if compute.is_main else folder / "other", compute, **options)
    save_file(student.state_dict(), folder / f"{name}-{compute.world}-{compute.rank}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path):
    """Over gloo on the CPU: the two agree to the bit, and without dropout with one process to rounding."""
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    for world in (2, 1):
        run_processes(PROGRAM, tmp_path / str(world), world)
    for name in ("dropout", "none"):
        first, second = (load_file(tmp_path / "2" / f"{name}-2-{rank}.safetensors") for rank in (0, 1))
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    one = load_file(tmp_path / "1" / "none-1-0.safetensors")
    # what a softmax adds to every score cancels: these gradients are rounding alone, which Adam blows up to whole steps
    cancelling = ("attention.key.bias", "pooling.energy.2.bias")
    for key, tensor in one.items():
        if not key.endswith(cancelling):
            # Adam divides by the gradient's own size, so that rounding in a tiny one moves a weight by a step
            assert torch.allclose(tensor, first[key], atol=2e-3), key
