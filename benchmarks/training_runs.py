"""Trainings of the ablation tables, one folder each: RUNS/TABLE/NAME/SEED, and RUNS/TABLE-CORPORA/... beside MOSI's.

A run that has its training.json is not repeated, one that was killed goes on, and one that another process is at is
passed over, so that the same command may be given again and again, and to two processes at once.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.variants import TEACHER, Variant, settings_of
from psamf_edge.compile.distillation.source import open_source
from psamf_edge.compile.files import atomic
from psamf_edge.compile.model.pretrained import find_encoder
from psamf_edge.compile.training.epochs import Run
from psamf_edge.compile.training.log import Log
from psamf_edge.compile.training.made_of import MADE_OF
from psamf_edge.compile.training.objective import PretrainedText
from psamf_edge.compile.training.options import CommonOptions
from psamf_edge.compile.training.record import RECORD
from psamf_edge.compile.training.settings import LoopSettings
from psamf_edge.compile.training.student import VOICE_STAGE, train_student
from psamf_edge.compile.training.teacher import train_psamf
from psamf_edge.compile.training.training_data import read_voices_and_faces
from psamf_edge.errors import UsageError

COMMAND = "python -m benchmarks.ablations"
NOTE = "run.json"  # what the training's own record does not say
FEATURES = ("speech.npz", "faces-train.npz", "faces-valid.npz")
# what an interrupted run would go on from: several times the size of what is kept
WORKING = (
    "checkpoints", "text-stage.safetensors", VOICE_STAGE, "personality*.npz", "knowledge.npz", MADE_OF, *FEATURES,
)  # fmt: skip

Say = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """What all runs are made from, and where they are kept."""

    runs: Path
    data: Path
    bert: str
    encoder: str  # what the tables call it
    personality: Path
    parts: Path
    corpora: str = "mosi"
    assignments: Mapping[str, tuple[str, ...]] | None = None  # by group, see variants.parse_assignments
    device: str = "auto"
    threads: int = 2

    def settings(self, variant: Variant, seed: int) -> LoopSettings:
        """Every number of one run."""
        return settings_of(variant, self.corpora, seed, self.assignments or {})

    def folder(self, variant: Variant, seed: int) -> Path:
        """Of one run."""
        return table_folder(self.runs, variant, self.corpora) / str(seed)


def table_folder(runs: Path, variant: Variant, corpora: str) -> Path:
    """The folder with the seeds of a row."""
    table, name = variant.place
    return runs / table_name(table, corpora) / name


def table_name(table: str, corpora: str) -> str:
    """The folder of a table's runs."""
    return table if corpora == "mosi" else f"{table}-{corpora}"


def train(variant: Variant, seed: int, material: Material, say: Say) -> bool:
    """Train one row with one seed, unless that is done; a student's teacher before it. False: another process is at it.

    Raises:
        UsageError: the run was made or begun with other settings.
    """
    folder, settings = material.folder(variant, seed), material.settings(variant, seed)
    with claim(folder) as mine:
        if not mine:
            say(f"{folder} is being trained by another process")
            return False
        if (folder / RECORD).is_file():
            check_settings(folder, settings)
        else:
            if variant.kind == "distilled" and not train(TEACHER, seed, material, say):
                return False
            say(f"{folder}: {variant.title}, seed {seed}")
            share_features(material, folder, say)
            run = CommonOptions(None, (), False, material.device, material.threads, False).open_run(folder, settings)
            voice_given = variant.kind != "teacher" and share_voice(material, seed, folder)
            count_session(folder, material.encoder, voice_given)
            make(variant, seed, material, settings, run)
        remove_working_files(folder)
        return True


def make(variant: Variant, seed: int, material: Material, settings: LoopSettings, run: Run) -> None:
    """Train into the run's folder, to the end."""
    folder = material.folder(variant, seed)
    if variant.kind == "teacher":
        train_psamf(material.data, material.bert, material.personality, material.parts, folder, settings, run)
        return
    if variant.kind == "distilled":
        source = open_source([material.folder(TEACHER, seed)], folder, run.compute, settings)
    else:
        source = PretrainedText(find_encoder(material.bert))
    train_student(material.data, source, material.parts, folder, settings, run, COMMAND)
    if not (voice := voice_of(material, seed)).exists():
        own = voice.with_name(f"{voice.name}.{os.getpid()}")  # a second process may be as quick, and has the same
        link(folder / VOICE_STAGE, own)
        os.replace(own, voice)


@contextmanager
def claim(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether the folder is ours for as long as the block runs. A process that dies gives it back."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except BlockingIOError:
            mine = False
        yield mine


def share_features(material: Material, folder: Path, say: Say) -> None:
    """Give a run the features of voices and faces, which are computed once for all, into RUNS/features."""
    shared, work = material.runs / "features", material.runs / "features.new"
    with claim(material.runs, wait=True):
        if not all((shared / name).is_file() for name in FEATURES):
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed in the middle of a file
            read_voices_and_faces(material.data, material.parts, work, Run(Log(None, say)))
            shutil.rmtree(shared, ignore_errors=True)
            work.rename(shared)
    for name in FEATURES:
        if not (folder / name).exists():
            link(shared / name, folder / name)


def voice_of(material: Material, seed: int) -> Path:
    """The voice of every student of a seed: no row is about the voice by itself, which takes a third of a run."""
    return material.runs / "features" / f"{material.corpora}-{seed}-{VOICE_STAGE}"


def share_voice(material: Material, seed: int, folder: Path) -> bool:
    """Give a run the voice that another of its seed has trained. Returns whether there was one."""
    voice = voice_of(material, seed)
    if not voice.is_file():
        return False
    if not (folder / VOICE_STAGE).exists():
        link(voice, folder / VOICE_STAGE)
    return True


def link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def count_session(folder: Path, encoder: str, voice_given: bool) -> None:
    """Note that a process begins or goes on with a run, and what no training record says of it."""
    path = folder / NOTE
    sessions = read_json(path)["sessions"] if path.is_file() else 0
    note = {"encoder": encoder, "sessions": sessions + 1, "voice_given": voice_given, "machine": machine()}
    with atomic(path) as new:
        new.write_text(json.dumps(note, indent=2))


def minutes_of(folder: Path) -> float | None:
    """How long a run took, if one process did it all, the voice included."""
    log, note = folder / "log.csv", read_json(folder / NOTE) if (folder / NOTE).is_file() else {}
    if not log.is_file() or note.get("sessions", 1) > 1 or note.get("voice_given"):
        return None
    with log.open(newline="") as file:
        done = [float(value) for stage, _, name, value in csv.reader(file) if (stage, name) == ("done", "minutes")]
    return done[-1] if done else None


def check_settings(folder: Path, settings: LoopSettings) -> None:
    """A finished run must be the one that is asked for. Settings that came after it do not count.

    Raises:
        UsageError: it was trained with other settings; the sentence names them.
    """
    had, wanted = read_json(folder / RECORD)["settings"], asdict(settings)
    differing = [name for name in wanted if name in had and had[name] != wanted[name]]
    if differing:
        shown = ", ".join(f"{name} ({had[name]} there, {wanted[name]} now)" for name in differing)
        raise UsageError(f"{folder} was trained with other settings: {shown}. Use those, or another --runs.")


def remove_working_files(folder: Path) -> None:
    """Of a finished run; the weights and their record stay."""
    for pattern in WORKING:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        UsageError: the file holds none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON ({error}); delete its folder and run again.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} must hold a JSON object; delete its folder and run again.")
    return value
