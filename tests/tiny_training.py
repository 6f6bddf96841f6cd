"""A student small enough to train in a second, corpora that it can learn, and a program that kills its training.

    python tests/tiny_training.py FOLDER SEED

trains once without a stop, and once more under kill -9 at random moments. Children are forked, so that each attempt
costs no import of PyTorch; the parent itself computes nothing, as autograd does not survive a fork.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from psamf_edge.compile.data.compose import Composer
from psamf_edge.compile.data.faces import FaceSet
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.data.valence import NEGATIVE, VALENCE
from psamf_edge.compile.model import Student, StudentConfig
from psamf_edge.compile.model.bert import BertConfig
from psamf_edge.compile.training.device import Compute
from psamf_edge.compile.training.epochs import Run, Validation
from psamf_edge.compile.training.fusion_stage import set_feature_scales, train_fusion
from psamf_edge.compile.training.log import Log
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.compile.training.text_stage import train_text
from psamf_edge.compile.training.validation import validate_samples
from psamf_edge.compile.training.voice_stage import train_voice
from psamf_edge.face.features import VISION_FEATURES

EMOTIONS = np.array([*NEGATIVE, "happy", "neutral"])
# seven steps an epoch, so that checkpoints fall between and inside epochs; early stopping is under way in each stage
SETTINGS = TrainSettings(
    batch=16, text_epochs=5, mosi_repeats=1, voice_steps=30, fusion_epochs=4, patience=3, checkpoint_every=3,
)  # fmt: skip
# what is left is the same for any number of processes
WITHOUT_DROPOUT = {
    "settings": replace(SETTINGS, patience=0, voice_dropout=0.0, bfloat16=False), "dropout": 0.0
}  # fmt: skip
KILLS = 4


def make_corpora(sentences: int = 96) -> tuple[TextSet, SpeechSet, FaceSet]:
    """Small corpora whose labels can be read off the features: token 5 is good, 6 is bad; feature 0 is the valence."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], sentences)
    text = TextSet("mosi", [np.array([2, 5 if s > 0 else 6, 3]) for s in signs], 2.0 * signs.astype(np.float32))
    emotions = rng.choice(EMOTIONS, 60)
    valence = np.array([VALENCE[e] for e in emotions], np.float32)
    voices = [np.tile(np.r_[v, rng.normal(size=62)], (80, 1)).astype(np.float32) for v in valence]
    speech = SpeechSet(voices, emotions, np.full(60, "ravdess"), np.full(60, "ravdess 01"))
    pictures = np.column_stack([valence, rng.normal(size=(60, len(VISION_FEATURES) - 1))]).astype(np.float32)
    return text, speech, FaceSet(pictures, emotions, np.ones(60, bool))


def with_speakers(
    corpora: tuple[TextSet, SpeechSet, FaceSet], sizes: tuple[int, ...] = (10, 12, 18, 20)
) -> tuple[TextSet, SpeechSet, FaceSet]:
    """The same with recordings of several speakers, so many of each; a confidence is calibrated by whole speakers."""
    text, speech, faces = corpora
    return text, replace(speech, speakers=np.repeat([f"ravdess {i:02d}" for i in range(len(sizes))], sizes)), faces


def compose(corpora: tuple[TextSet, SpeechSet, FaceSet], seed: int = 0, augment: bool = True) -> Composer:
    """Samples of the corpora, as a training composes them, or as a validation does."""
    return Composer(*corpora, np.random.default_rng(seed), augment)


def make_student(dropout: float) -> Student:
    """Two text blocks of 32 units, from seed 0."""
    torch.manual_seed(0)
    bert = BertConfig(vocabulary=10, width=32, heads=4, feed_forward=64, blocks=2, positions=8)
    return Student(StudentConfig(63, len(VISION_FEATURES), bert, dropout=dropout))


def train_all(
    folder: Path, compute: Compute | None = None, settings: TrainSettings = SETTINGS, dropout: float = 0.1
) -> Student:
    """All three stages with checkpoints in `folder`, at each opportunity; the log goes to folder/log.csv and stderr."""
    compute = compute or Compute()
    corpora = make_corpora(112)
    text, speech, _ = corpora
    student = make_student(dropout)  # some of it, so that PyTorch's generator matters
    log = Log(folder / "log.csv", lambda line: print(line, file=sys.stderr, flush=True))
    run = Run(log, compute, folder / "checkpoints", most_time=1.0)
    train_text(student, [text], [text], settings, run)
    samples = compose(corpora, settings.seed + 1)
    set_feature_scales(student, samples)
    voice = train_voice(student.audio, speech, settings, run, speech)

    def metrics() -> dict[str, float]:
        return {"mae": validate_samples(student, compose(corpora, augment=False), settings.batch)["all"]["mae"]}

    train_fusion(student, samples, settings, run, validation=Validation(metrics, "mae"), hear=voice.valence)
    return student


def run_processes(program: str, folder: Path, world: int) -> None:
    """Run a Python program as so many processes over gloo; its arguments are this directory, `folder` and `world`."""
    folder.mkdir()
    script = folder / "program.py"
    script.write_text(program)
    # what `accelerate launch` runs for several GPUs; on CPUs it would need an MPI
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)] if world > 1 else []
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(Path(__file__).parent), str(folder), str(world)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def attempt(folder: Path) -> int:
    """Fork a child that trains and writes folder/weights.safetensors; its process number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            save_file(train_all(folder).state_dict(), folder / "weights.safetensors")
            code = 0
        finally:
            os._exit(code)  # nothing of the parent's is to be cleaned up here
    return child


def main(folder: Path, seed: int) -> None:
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports two seconds' worth that each child would repeat
    begun = time.monotonic()
    _, status = os.waitpid(attempt(folder / "whole"), 0)
    duration, chance, kills = time.monotonic() - begun, random.Random(seed), 0
    while status == 0 and kills < KILLS:
        child = attempt(folder / "killed")
        time.sleep(chance.uniform(0.1, 0.6) * duration)
        os.kill(child, signal.SIGKILL)  # it stays a zombie until waited for: the number cannot be another's
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            kills += 1
        else:
            break
    print(f"killed {kills} times")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(attempt(folder / "killed"), 0)[1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
