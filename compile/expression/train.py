"""Trains the expression net and writes what ships.

On the cache of `psamf_edge.compile.expression.data`:

    python -m psamf_edge.compile.expression.train --cache CACHE --run RUN \
        --onnx compile/weights/default/expression.onnx --result benchmarks/results/expression.json
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

from psamf_edge.compile.expression import metrics
from psamf_edge.compile.expression.augment import augment
from psamf_edge.compile.expression.data import Faces, concatenate, load
from psamf_edge.compile.expression.export import OPSET, export
from psamf_edge.compile.expression.model import ExpressionCNN
from psamf_edge.compile.files import atomic, write_tensors
from psamf_edge.face.expression import EXPRESSIONS, ExpressionNet

WARM_UP = 0.2  # share of the training in which the learning rate rises
TOLD_EVERY = 50  # steps
TRAIN_SAMPLE = 3589  # training faces scored without augmentation: as many as FER2013 holds out


@dataclass(frozen=True)
class Settings:
    """How to train; written into the result file."""

    epochs: int = 12
    minutes: float = 60.0  # at most; the learning rate falls in time, however busy the machine is
    batch: int = 64
    peak_rate: float = 0.05  # of SGD with Nesterov momentum
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1  # about a third of FER2013's labels are disputed by people (arXiv:1307.0414)
    aligned_share: float = 0.5  # of the faces that were found; the others are seen as they came
    seed: int = 0
    bfloat16: bool = True  # halves the time on CPUs that have it; evaluation is float32


def one_cycle(progress: float) -> float:
    """Learning rate over its peak by share of the training (OneCycle, arXiv:1708.07120): a line up, a cosine down."""
    if progress < WARM_UP:
        return 0.04 + 0.96 * progress / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1))


def fit(net: ExpressionCNN, faces: Faces, settings: Settings) -> float:
    """Train in place, telling the progress on stderr; the epochs that were done."""
    torch.manual_seed(settings.seed)
    net.train().to(memory_format=torch.channels_last)
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]  # biases and batch norms
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.peak_rate, momentum=settings.momentum, nesterov=True,
    )  # fmt: skip
    steps = max(len(faces) // settings.batch, 1)
    raw, aligned, labels = (torch.from_numpy(a) for a in (faces.raw, faces.aligned, faces.labels))
    done, losses, begun = 0.0, [], time.monotonic()
    while done < 1:
        for rows in torch.randperm(len(faces))[: steps * settings.batch].chunk(steps):
            minutes = (time.monotonic() - begun) / 60
            done = max(len(losses) / (settings.epochs * steps), minutes / settings.minutes)
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = settings.peak_rate * one_cycle(done)
            chosen = torch.rand(len(rows), 1, 1) < settings.aligned_share
            crops = augment(torch.where(chosen, aligned[rows], raw[rows]))  # (B, 48, 48)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
                logits, _ = net(crops)
            loss = F.cross_entropy(logits.float(), labels[rows], label_smoothing=settings.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) % TOLD_EVERY == 0:
                told = f"epoch {len(losses) / steps:.2f}  loss {np.mean(losses[-TOLD_EVERY:]):.4f}"
                click.echo(f"{told}  {minutes:.1f} min  {done:.0%}", err=True)
    return len(losses) / steps


def save(net: ExpressionCNN, trainings: list[dict], path: Path) -> None:
    """Weights as safetensors, with the settings of every training they went through."""
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    with atomic(path) as new:
        write_tensors(new, weights, metadata={"trainings": json.dumps(trainings)})


def restore(net: ExpressionCNN, path: Path) -> list[dict]:
    """Load what `save` wrote; the trainings it tells of."""
    net.load_state_dict(load_file(path))
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["trainings"])


def evaluate(runtime: ExpressionNet, faces: Faces) -> dict:
    """Metrics of each view, by the exported file; the aligned view over the faces that were found, if any."""
    views = {"raw": (faces.raw, faces.labels)}
    if faces.found.any():
        views["aligned"] = (faces.aligned[faces.found], faces.labels[faces.found])
    return {
        name: metrics.score(runtime.embed(crops)[:, : len(EXPRESSIONS)], labels)
        for name, (crops, labels) in views.items()
    }


def latency(runtime: ExpressionNet, crops: np.ndarray, batch: int, repeats: int = 50) -> dict:
    """Milliseconds a face in batches of `batch`, one thread."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        runtime.embed(crops[:batch])
        times.append((time.perf_counter() - begun) * 1000 / batch)
    return {"batch": batch, "minimum": round(min(times), 4), "median": round(statistics.median(times), 4)}


@click.command()
@click.option("--cache", required=True, type=click.Path(exists=True, path_type=Path), help="Crops, see data.py.")
@click.option("--run", required=True, type=click.Path(path_type=Path), help="Folder for the weights.")
@click.option("--onnx", "onnx_path", required=True, type=click.Path(path_type=Path), help="The ONNX file to write.")
@click.option("--result", required=True, type=click.Path(path_type=Path), help="The result JSON to write.")
@click.option("--epochs", type=click.IntRange(1), default=Settings.epochs, show_default=True)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=Settings.minutes,
    show_default=True,
    help="At most so long.",
)
@click.option("--peak-rate", default=Settings.peak_rate, show_default=True)
@click.option(
    "--start", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Weights of a run to go on from."
)
@click.option("--seed", default=Settings.seed, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of PyTorch.")
def main(
    cache: Path,
    run: Path,
    onnx_path: Path,
    result: Path,
    start: Path | None,
    threads: int,
    **settings: float,
) -> None:
    """Train, check, export, report."""
    torch.set_num_threads(threads)
    settings = Settings(**settings)
    torch.manual_seed(settings.seed)
    fer, valid, posed = (load(cache, name) for name in ("fer2013_train", "fer2013_valid", "ckplus48"))
    train = concatenate([fer, posed.where(~posed.held_out)])
    net, begun = ExpressionCNN(), time.monotonic()
    trainings = restore(net, start) if start else []
    epochs = fit(net, train, settings)
    minutes = (time.monotonic() - begun) / 60
    trainings.append({**asdict(settings), "epochs_done": round(epochs, 2), "minutes_taken": round(minutes, 1)})
    save(net, trainings, run / "expression.safetensors")

    data, difference = export(net)
    with atomic(onnx_path) as new:
        new.write_bytes(data)
    runtime = ExpressionNet(data)
    sample = np.random.default_rng(settings.seed).permutation(len(fer))[:TRAIN_SAMPLE]
    sets = {
        "fer2013_valid": valid,
        "ckplus_held_out": posed.where(posed.held_out),
        "fer2013_train_sample": fer.where(sample),
    }
    report = {
        "what": "expression net, trained on FER2013 and CK+; aligned: as the runtime's face path crops the picture",
        "date": date.today().isoformat(),
        "trainings": trainings,
        "training_set": {"faces": len(train), "found": int(train.found.sum())},
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
            "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__,
        },
        "model": {
            "bytes": len(data), "parameters": sum(p.numel() for p in net.parameters()), "opset": OPSET,
            "largest_difference_from_pytorch": difference,
        },
        "classes": EXPRESSIONS,
        "metrics": {name: evaluate(runtime, faces) for name, faces in sets.items()},
        "latency_ms_per_face": {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
            "load_average": round(os.getloadavg()[0], 1),  # above the number of cores the medians are pessimistic
            "batches": [latency(runtime, valid.raw, batch) for batch in (8, 16)],
        },
    }  # fmt: skip
    with atomic(result) as new:
        new.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, views in report["metrics"].items():
        for view, values in views.items():
            told = "  ".join(f"{k} {values[k]}" for k in ("faces", "accuracy", "mean_recall", "valence_sign"))
            click.echo(f"{name:22}{view:9}{told}", err=True)


if __name__ == "__main__":
    main()
