"""The same utterances through this model's rivals, in one run: python -m benchmarks.peers [--rounds N]

Every rival is a process of its own, so that its memory is its own; one utterance at a time, they take turns. All have
seen every length before the clock starts. First with one thread each, then with two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import busy_cores, machine, save
from benchmarks.peer_child import save_utterances
from psamf_edge.audio.features import extract
from psamf_edge.bench.series import paired_ratio, summary
from psamf_edge.bundle import DEFAULT_BUNDLE, open_bundle
from psamf_edge.compile.command import compile_bundle
from psamf_edge.compile.quality.check_set import FACE_RATE, LONGEST_S, SECONDS_A_WORD, SENTENCES, face, voice
from psamf_edge.compile.source import DEFAULT_WEIGHTS
from psamf_edge.doctor.machine import gpus
from psamf_edge.plan import Features
from psamf_edge.words.wordpiece import WordPiece

ROOT = Path(__file__).parents[1]
THREADS = (1, 2)
OURS, REFERENCE = "psamf-edge int8, ONNX Runtime", "the same weights, PyTorch"
NO_GPU = "no GPU here"


@dataclass(frozen=True)
class Peer:
    """A rival. kind, bundle, device: as benchmarks.peer_child takes them. gpu: it runs on one alone."""

    name: str
    kind: str
    bundle: str = ""  # a key of `write_bundles`
    device: str = "cpu"
    gpu: bool = False


PEERS = (
    Peer(OURS, "backend", "int8"),
    Peer("the same weights, fp32, ONNX Runtime", "backend", "fp32"),
    Peer(REFERENCE, "eager"),
    Peer("the same weights, torch.compile", "inductor"),
    Peer("PSA-MF at released size, PyTorch", "released"),
    Peer("the same weights, fp32, ONNX Runtime's CUDA provider", "backend", "fp32", "onnxruntime-cuda", True),
    Peer("the same weights, fp32, ONNX Runtime's TensorRT provider", "backend", "fp32", "onnxruntime-tensorrt", True),
    Peer("psamf-edge fp16, TensorRT-RTX engines", "backend", "rtx", "cuda", True),
)


class Rival:
    """The process of one peer."""

    def __init__(self, peer: Peer, threads: int, utterances: Path, bundles: dict[str, Path]) -> None:
        self.peer, self.threads = peer, threads
        self.ms: list[float] = []
        self.scores: dict[int, float | None] = {}
        request = {"kind": peer.kind, "device": peer.device, "threads": threads, "utterances": str(utterances),
                   "bundle": str(bundles.get(peer.bundle, ""))}  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peer_child", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.unavailable: str | None = self._answer().get("unavailable")

    def score(self, number: int, counts: bool) -> None:
        """One utterance."""
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.scores[number] = answer["score"]
        if counts:
            self.ms.append(answer["ms"])

    def end(self) -> dict[str, float]:
        """Its memory, in MB: resident at the end, at its peak, and before it had imported any framework."""
        self._process.stdin.close()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.peer.name} died with code {self._process.wait()}: see its last words above.")
        return json.loads(line)


def utterances() -> list[Features]:
    """The sentences of the check set with a voice and a face as long as it takes to say them."""
    bundle = open_bundle(DEFAULT_BUNDLE)
    wordpiece, found = WordPiece(bundle.read("vocab.txt")), []
    for number, sentence in enumerate(SENTENCES):
        rng, seconds = np.random.default_rng(number), min(LONGEST_S, SECONDS_A_WORD * (1 + sentence.count(" ")))
        ids = wordpiece.encode(sentence, bundle.shapes.max_tokens).ids
        found.append(Features(ids, extract(voice(rng, seconds)), face(rng, max(1, round(seconds * FACE_RATE)))))
    return found


def write_bundles(folder: Path, gpu: bool) -> dict[str, Path]:
    """The shipped bundle, and those made from the shipped weights for this run."""
    found = {"int8": DEFAULT_BUNDLE, "fp32": folder / "fp32.psamf", "rtx": folder / "rtx.psamf"}
    compile_bundle(DEFAULT_WEIGHTS, found["fp32"], "cpu", "fp32")
    if gpu:
        compile_bundle(found["fp32"], found["rtx"], "rtx", "fp16", engines=False)
    return found


def compete(rivals: list[Rival], count: int, rounds: int) -> None:
    """Every utterance in turn, and for each of them every rival; every other round backwards. `rounds` count."""
    warmup = min(count, 8)  # caches, clocks and branch predictors; each length was met before
    for turn in range(warmup + rounds):
        for rival in rivals if turn % 2 == 0 else reversed(rivals):
            rival.score(turn % count, turn >= warmup)


def row(rival: Rival, ours: Rival, reference: Rival) -> dict:
    """What is recorded of a rival that ran."""
    memory = rival.end()
    scores = [(score, reference.scores[number]) for number, score in rival.scores.items() if score is not None]
    differences = np.abs([a - b for a, b in scores])
    return {
        "name": rival.peer.name,
        "threads": rival.threads,
        **summary(rival.ms),
        "ratio": vars(paired_ratio(rival.ms, ours.ms)),
        **{name: round(value, 1) for name, value in memory.items()},
        "difference": {"mean": float(differences.mean()), "worst": float(differences.max())} if scores else None,
        "ms": [round(ms, 3) for ms in rival.ms],
    }


def measure(spoken: list[Features], rounds: int) -> list[dict]:
    """A row for each rival and number of threads."""
    gpu = any(finding.name.startswith("GPU") for finding in gpus())
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_utterances(spoken, folder / "utterances.npz")
        bundles = write_bundles(folder, gpu)
        for threads in THREADS:
            with ExitStack() as stack:
                rivals = []
                for peer in PEERS:
                    if peer.gpu and not gpu:
                        rows.append({"name": peer.name, "threads": threads, "unavailable": NO_GPU})
                        continue
                    rival = Rival(peer, threads, folder / "utterances.npz", bundles)
                    stack.callback(rival.close)
                    if rival.unavailable:
                        rows.append({"name": peer.name, "threads": threads, "unavailable": rival.unavailable})
                    else:
                        rivals.append(rival)
                compete(rivals, len(spoken), rounds)
                by_name = {rival.peer.name: rival for rival in rivals}
                rows += [row(rival, by_name[OURS], by_name[REFERENCE]) for rival in rivals]
    order = [peer.name for peer in PEERS]
    return sorted(rows, key=lambda each: (each["threads"], order.index(each["name"])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=128, help="utterances that each rival scores")
    parser.add_argument("--output", type=Path, help="elsewhere than benchmarks/results/peers.json")
    arguments = parser.parse_args()
    import torch

    spoken, busy = utterances(), busy_cores()  # before anything of ours runs
    record = {
        "machine": {**machine(), "torch": torch.__version__, "busy_cores": busy},
        "lengths": [{"tokens": len(u.ids), "hops": len(u.audio), "frames": len(u.face)} for u in spoken],
        "peers": measure(spoken, arguments.rounds),
    }
    for each in record["peers"]:
        figures = each.get("unavailable") or f"p50 {each['p50']:.1f} ms, {each['ratio']['value']:.1f} times ours"
        print(f"{each['name']}, {each['threads']} threads: {figures}")
    print(f"written to {save('peers', record, arguments.output)}", file=sys.stderr)


if __name__ == "__main__":
    main()
