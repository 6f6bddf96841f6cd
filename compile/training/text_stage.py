"""Stage 1: the trunk and the last text block learn to score sentences, with voice and face declared missing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.model import Student
from psamf_edge.compile.model.fusion import FusionOutput, Stream
from psamf_edge.compile.training.loop import Log, RunningMean, Trainer, batches_by_length, count_batches, score_loss
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.metrics import evaluate_scores


def missing_stream(student: Student, batch: int) -> Stream:
    """What the runtime hands over for a modality that is not there: one masked step of zeros."""
    d = student.config.width
    return Stream(torch.zeros(batch, 1, d), torch.zeros(batch, 1), torch.zeros(batch, d))


def score_text(student: Student, ids: Tensor, mask: Tensor) -> FusionOutput:
    """Scores (B, 1) of sentences alone: ids (B, L), mask (B, L)."""
    B = len(ids)
    missing = missing_stream(student, B)
    present = torch.tensor([1.0, 0.0, 0.0]).expand(B, 1, 3)
    return student.fusion(student.trunk(ids, mask), mask, missing, missing, present)


@torch.no_grad()
def evaluate_text(student: Student, text: TextSet, batch: int = 64) -> dict[str, float]:
    """The field's metrics on a text set, scores clamped to [-3, 3] as the exported model does."""
    was_training = student.training
    student.eval()
    order = np.argsort([len(ids) for ids in text.ids], kind="stable")
    scores = np.zeros(len(text), np.float32)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        ids, mask = map(torch.from_numpy, pad([text.ids[i] for i in rows], np.int64))
        scores[rows] = score_text(student, ids, mask).score[:, 0].clamp(-3.0, 3.0).numpy()
    student.train(was_training)
    return evaluate_scores(scores, text.labels)


def train_text(
    student: Student, train: list[TextSet], valid: list[TextSet], settings: TrainSettings, log: Log
) -> dict[str, dict[str, float]]:
    """Fine-tune on all training sets together; MOSI is repeated. Returns the metrics of each validation set."""
    rng = np.random.default_rng(settings.seed)
    ids, labels = [], []
    for text in train:
        repeats = settings.mosi_repeats if text.name == "mosi" else 1
        ids += text.ids * repeats
        labels += [text.labels] * repeats
    labels = np.concatenate(labels)
    lengths = np.array([len(x) for x in ids])

    pretrained = [*student.trunk.parameters(), *student.fusion.pre_fusion.block.parameters()]
    known = {id(p) for p in pretrained}
    new = [p for p in student.fusion.parameters() if id(p) not in known]
    steps = settings.text_epochs * count_batches(lengths, settings.batch)
    groups = [{"params": pretrained, "lr": settings.trunk_lr}, {"params": new, "lr": settings.new_lr}]
    trainer = Trainer(student, groups, steps, settings)
    student.train()
    step, running = 0, RunningMean()
    for _ in range(settings.text_epochs):
        for rows in batches_by_length(lengths, settings.batch, rng):
            tokens, mask = map(torch.from_numpy, pad([ids[i] for i in rows], np.int64))
            y = torch.from_numpy(labels[rows]).unsqueeze(1)  # (B, 1)
            # bfloat16 takes six tenths of float32's time where the CPU has it, and its range cannot overflow
            with torch.autocast("cpu", torch.bfloat16):
                output = score_text(student, tokens, mask)
            loss = score_loss(output.score.float(), output.log_scale.float(), y, settings.scale_weight)
            trainer.step(loss)
            step += 1
            running.update(loss.item())
            if step % 50 == 0:
                log.write("text", step, {"of": steps, "loss": running.value})
    trainer.finish()
    metrics = {text.name: evaluate_text(student, text) for text in valid}
    for name, values in metrics.items():
        log.write("text", step, {f"{name}.{key}": values[key] for key in ("mae", "corr", "acc2_non0")})
    return metrics
