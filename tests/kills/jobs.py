"""What is killed: compiles, trainings and an extraction, small ones, each run by its own command."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psamf_edge.bundle import MANIFEST, open_bundle

LOG = "log.txt"
POLL = 0.005  # s between two looks at a run: a stage may be as short as that
VOCABULARY = 1100  # pieces of the small BERT; those of the sentences are from 1000 on
QUICK = ["--set", "batch=8", "--set", "average_decay=0.9", "--set", "checkpoint_every=2", "--threads", "1",
         "--device", "cpu"]  # fmt: skip
COMPILE_STAGE = re.compile(r"^\[\d+/\d+\] (.*?) \.\.\.", re.MULTILINE)
TRAINING_STAGE = re.compile(r"^(text|voice|fusion|teacher|done)\b", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """One kind of run.

    arguments: of `psamf-edge`, given the folder of the inputs and the folder to write in.
    stage: where a run is, given its log and the folder that it writes in.
    needs: a module without which it cannot run.
    """

    name: str
    arguments: Callable[[Path, Path], list]
    stage: Callable[[str, Path], str]
    needs: str | None = None

    def run(self, inputs: Path, folder: Path) -> None:
        """By the command line's own entry, which ends the process."""
        from psamf_edge.cli import main

        main([str(argument) for argument in self.arguments(inputs, folder)])


def _compile_stage(log: str, folder: Path) -> str:
    found = COMPILE_STAGE.findall(log)
    return found[-1] if found else "start"


def _training_stage(log: str, folder: Path) -> str:
    found = TRAINING_STAGE.findall(log)
    if found[-1:] == ["text"] and (folder / "weights" / "text-stage.safetensors").exists():
        return "fusion"  # which may be over before it has anything to say
    return found[-1] if found else "start"


def _clips_done(log: str, folder: Path) -> str:
    if (folder / "out.npz").exists():
        return "written"
    return f"{len(list(folder.glob('out.npz.parts/*.npz')))} clips done"


def _trains(name: str, *arguments: str, **options: str) -> Job:
    """A training of `arguments` on the feature file. options: inputs by option name."""

    def of(inputs: Path, folder: Path) -> list:
        given = [part for option, file in options.items() for part in (f"--{option}", inputs / file)]
        first = [inputs / argument if argument == "teacher.run" else argument for argument in arguments]
        return [*first, "--features", inputs / "features.npz", *given, "-o", folder / "weights", *QUICK]

    return Job(name, of, _training_stage)


def _compiles(name: str, source: str, *options: str, needs: str | None = None) -> Job:
    def of(inputs: Path, folder: Path) -> list:
        return ["compile", inputs / source, "-o", folder / "out.psamf", "--name", "tiny", *options]

    return Job(name, of, _compile_stage, needs)


JOBS = [
    _compiles("compile weights for cpu", "weights", "--precision", "int8"),
    _compiles("compile a bundle for cpu with mixed precision", "fp32.psamf", "--precision", "int8", "--max-gap", "5e-4",
              "--mixed"),
    _compiles("compile a bundle for rtx", "fp32.psamf", "--target", "rtx", "--fusion", "graph", needs="tensorrt_rtx"),
    _trains("train teacher", "train", "teacher", "--epochs", "3", bert="bert", personality="personality"),
    _trains("train student", "train", "student", "--text-epochs", "2", "--fusion-epochs", "2", bert="bert",
            parts="parts"),
    _trains("distill", "distill", "teacher.run", "--set", "text_epochs=2", "--set", "fusion_epochs=2", parts="parts"),
    Job("extract", lambda inputs, folder: ["extract", inputs / "clips" / "label.csv", "-o", folder / "out.npz",
                                           "--jobs", "2"], _clips_done),
]  # fmt: skip


def prepare(inputs: Path) -> None:
    """Write what the jobs read, but the trained teacher. In a process of its own: autograd does not survive a fork."""
    import torch

    from psamf_edge.compile.command import CARRIED, compile_bundle
    from psamf_edge.compile.files import copy_whole
    from psamf_edge.compile.model.bert import BertConfig
    from psamf_edge.compile.personality.model import PersonalityEncoder, save_personality
    from tests.bert_files import write_bert
    from tests.tiny_weights import DEFAULT_WEIGHTS, write_tiny_weights

    (inputs / "clips").mkdir(parents=True)
    _write_clips(inputs / "clips")
    _write_features(inputs / "features.npz")
    words = [f"[unused{i}]" for i in range(VOCABULARY)]
    words[0], words[100:103], words[1001:1003] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]"], ["good", "bad"]
    sizes = BertConfig(vocabulary=VOCABULARY, width=32, heads=2, feed_forward=64, blocks=3, positions=128)
    write_bert(inputs / "bert", sizes, words)
    for name in (*CARRIED, "NOTICE-mediapipe.txt"):
        copy_whole(inputs / "bert" / name if name == "vocab.txt" else DEFAULT_WEIGHTS / name, inputs / "parts" / name)
    torch.manual_seed(1)
    save_personality(PersonalityEncoder(sizes), inputs / "personality", {})
    (inputs / "weights").mkdir()
    write_tiny_weights(inputs / "weights")
    compile_bundle(inputs / "weights", inputs / "fp32.psamf", "cpu", "fp32", log=lambda line: print(line))


def _write_clips(folder: Path) -> None:
    from tests.media_files import write_clip

    rows = ["id,clip,text,label,split"]
    for number, split in enumerate(("train", "train", "valid", "test")):
        write_clip(folder / f"{number}.mp4", 0.5 + 0.5 * number)
        rows.append(f"{number},{number}.mp4,words,{number - 1},{split}")
    (folder / "label.csv").write_text("\n".join(rows) + "\n")


def _write_features(path: Path) -> None:
    """48 and 20 clips in which one word decides, and the first number of each step says the same."""
    from psamf_edge.audio.features import AUDIO_FEATURES
    from psamf_edge.compile.data.feature_file import MmsaSet, save_features
    from psamf_edge.face.features import VISION_FEATURES

    rng, sets = np.random.default_rng(0), {}
    for split, count in (("train", 48), ("valid", 20)):
        signs = np.where(np.arange(count) % 2 == 0, 1.0, -1.0).astype(np.float32)
        ids = np.array([[101, 1001 if sign > 0 else 1002, 102] for sign in signs])

        def rows(steps: int, features: int, signs: np.ndarray = signs) -> list[np.ndarray]:
            made = [rng.normal(size=(steps, features)).astype(np.float32) for _ in signs]  # (steps, features) each
            for values, sign in zip(made, signs, strict=True):
                values[:, 0] = sign
            return made

        sets[split] = MmsaSet(
            ids=[f"{split}{i // 2}$_${i}" for i in range(count)],
            raw_text=["good" if sign > 0 else "bad" for sign in signs],
            text_ids=ids,
            text_mask=np.ones(ids.shape, np.float32),
            audio=rows(40, len(AUDIO_FEATURES)),
            vision=rows(8, len(VISION_FEATURES)),
            labels=2 * signs,
        )
    save_features(path, sets, {})


# What a run leaves


def outcome(folder: Path) -> dict[str, str]:
    """Every file that a run has left, with the hash of what may not differ between two runs."""
    return {str(path.relative_to(folder)): _hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _hash(path: Path) -> str:
    if path.suffix == ".engine" or path.name == "log.csv":  # built anew each time; tells what was repeated
        return "any"
    content = path.read_bytes()
    if path.name == "training.json":
        record = json.loads(content)
        content = json.dumps({name: record[name] for name in record if name not in ("date", "minutes")}).encode()
    if path.suffix == ".safetensors":  # whose header tells its metadata in any order
        size = 8 + int.from_bytes(content[:8], "little")
        content = json.dumps(json.loads(content[8:size]), sort_keys=True).encode() + content[size:]
    if path.name == MANIFEST:
        manifest = json.loads(content)
        manifest["files"] = {name: entry for name, entry in manifest["files"].items() if not name.endswith(".engine")}
        content = json.dumps(manifest).encode()
    return hashlib.sha256(content).hexdigest()


def half_written(folder: Path) -> list[str]:
    """What stands under its own name and is not whole. Work folders and temporary names are nobody's to read."""
    from safetensors import safe_open

    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") or ".new" in part for part in inside.parts):
            continue
        try:
            if path.suffix == ".psamf":
                open_bundle(path).verify()
            elif path.suffix == ".safetensors":
                with safe_open(path, "np") as file:
                    list(file.keys())
            elif path.suffix == ".npz":
                assert zipfile.ZipFile(path).testzip() is None
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except FileNotFoundError:
            continue  # a worker that outlived its parent for a moment has renamed it
        except Exception as error:
            found.append(f"{inside}: {type(error).__name__}: {error}")
    return found


def follow(job: Job, log: Path, folder: Path, is_over: Callable[[], bool], stop: Callable[[str], bool]) -> str:
    """Watch a run until it is over or `stop(stage)`; the stage that it was in then."""
    while True:
        stage = job.stage(log.read_text(), folder)
        if is_over() or stop(stage):
            return stage
        time.sleep(POLL)


def missing(job: Job) -> bool:
    """Whether a module that the job needs is not installed."""
    import importlib.util

    return job.needs is not None and job.needs not in sys.modules and importlib.util.find_spec(job.needs) is None
