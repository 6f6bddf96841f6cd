"""Stage 1: the trunk and the last text block learn to score sentences, with voice and face declared missing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.model import Student
from psamf_edge.compile.model.fusion import FusionOutput, Stream
from psamf_edge.compile.training.batching import LengthBatches
from psamf_edge.compile.training.device import device_of, to_tensors
from psamf_edge.compile.training.epochs import Loss, Run, Validation, run_epochs
from psamf_edge.compile.training.loop import Trainer
from psamf_edge.compile.training.objective import Objective, Scored, score_objective
from psamf_edge.compile.training.reading import by_length
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.metrics import evaluate_scores


def missing_stream(student: Student, like: Tensor) -> Stream:
    """What the runtime hands over for a modality that is not there: one masked step of zeros. `like` is (B, ...)."""
    B, d = len(like), student.config.width
    return Stream(*(torch.zeros(size, device=like.device) for size in ((B, 1, d), (B, 1), (B, d))))


def score_text(student: Student, ids: Tensor, mask: Tensor) -> FusionOutput:
    """Scores (B, 1) of sentences alone: ids (B, L), mask (B, L)."""
    return score_text_states(student, student.trunk(ids, mask), mask)


def score_text_states(student: Student, hidden: Tensor, mask: Tensor) -> FusionOutput:
    """The same from the trunk's hidden states (B, L, H)."""
    missing = missing_stream(student, hidden)
    present = torch.tensor([1.0, 0.0, 0.0], device=hidden.device).expand(len(hidden), 1, 3)
    return student.fusion(hidden, mask, missing, missing, present)


@torch.no_grad()
def evaluate_text(student: Student, text: TextSet, batch: int = 64) -> dict[str, float]:
    """The field's metrics on a text set, scores clamped to [-3, 3] as the exported model does."""
    was_training = student.training
    student.eval()
    scores = np.zeros(len(text), np.float32)
    for rows, ids, mask in by_length(text.ids, batch, device_of(student)):
        scores[rows] = score_text(student, ids, mask).score[:, 0].clamp(-3.0, 3.0).cpu().numpy()
    student.train(was_training)
    return evaluate_scores(scores, text.labels)


def merge_text(train: list[TextSet], mosi_repeats: int) -> TextSet:
    """All training sets as one, MOSI repeated: the rows that a training of the text blocks draws."""
    ids, labels = [], []
    for text in train:
        repeats = mosi_repeats if text.name == "mosi" else 1
        ids += text.ids * repeats
        labels += [text.labels] * repeats
    return TextSet("merged", ids, np.concatenate(labels))


def train_text(
    student: Student,
    train: list[TextSet],
    valid: list[TextSet],
    settings: TrainSettings,
    run: Run,
    objective: Objective = score_objective,
) -> dict[str, dict[str, float]]:
    """Fine-tune on all training sets together; MOSI is repeated. Returns the metrics of each validation set."""
    text, compute = merge_text(train, settings.mosi_repeats), run.compute
    rng = np.random.default_rng(settings.seed)
    batches = LengthBatches(np.array([len(ids) for ids in text.ids]), settings.batch, rng)
    pretrained = [*student.trunk.parameters(), *student.fusion.pre_fusion.block.parameters()]
    known = {id(p) for p in pretrained}
    new = [p for p in student.fusion.parameters() if id(p) not in known]
    groups = [{"params": pretrained, "lr": settings.trunk_lr}, {"params": new, "lr": settings.new_lr}]
    student.to(compute.device).train()
    trainer = Trainer(student, groups, settings.text_epochs * len(batches), settings, compute)

    def loss_of(rows: np.ndarray) -> Loss:
        rows = rows[compute.part()]
        ids, mask = to_tensors(pad([text.ids[i] for i in rows], np.int64), compute.device)
        (labels,) = to_tensors([text.labels[rows][:, None]], compute.device)  # (B, 1)
        with compute.autocast(settings.bfloat16):
            hidden = student.trunk(ids, mask)
            output = score_text_states(student, hidden, mask)
        return objective(Scored(output, hidden, mask, rows, labels), settings)

    def metrics() -> dict[str, float]:
        each = [evaluate_text(student, one)["mae"] for one in valid]
        return {"mae": float(np.mean(each)), **{f"mae.{v.name}": mae for v, mae in zip(valid, each, strict=True)}}

    run_epochs(trainer, batches, loss_of, run, "text", {"rows": rng}, Validation(metrics, "mae"), log_every=50)
    results = {one.name: evaluate_text(student, one) for one in valid}
    for name, values in results.items():
        run.log.write("text", trainer.done, {f"{name}.{key}": values[key] for key in ("mae", "corr", "acc2_non0")})
    return results
