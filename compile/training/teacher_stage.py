"""Training of the teacher: all of PSA-MF at once, each sample with one subset of modalities a step.

The personality vectors come from a frozen encoder and are computed once (compile/personality/vectors.py). Judged, and
selected where settings.patience says so, on validation data alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from psamf_edge.compile.data.samples import Batch, Samples
from psamf_edge.compile.model.alignment import total_loss
from psamf_edge.compile.model.teacher import Teacher, TeacherConfig
from psamf_edge.compile.training.batching import LengthBatches
from psamf_edge.compile.training.device import Compute, device_of, to_tensors
from psamf_edge.compile.training.epochs import Loss, Run, Validation, run_epochs
from psamf_edge.compile.training.fusion_stage import ALL, TEXT, share
from psamf_edge.compile.training.loop import Trainer
from psamf_edge.compile.training.settings import CorpusSettings, one_of, within
from psamf_edge.compile.training.validation import SUBSETS, by_subset, judged_batches
from psamf_edge.errors import UsageError
from psamf_edge.result import SCORE_LIMIT

COMPARED = ("score", "present", "alignment", "contrasts")  # what total_loss reads of a TeacherOutput
MODEL_OPTIONS = ("personality", "pre_fusion", "enhanced_fusion", "l_ps", "l_clm", "alignment_weight")


@dataclass(frozen=True)
class TeacherSettings(CorpusSettings):
    """Settings of the teacher's training; rates and clip are those published for MOSI.

    The weight decay has their number, which was Adam's, a part of the gradient; in AdamW, which `Trainer` takes, 1e-4
    does next to nothing.

    Raises:
        UsageError: as LoopSettings; shares of more than the whole; or a plateau schedule that nothing is judged for.
    """

    batch: int = within(64, 1)  # 256 and 128 as published; the contrast wants many, a CPU few
    weight_decay: float = within(1e-4, 0.0)
    patience: int = within(3, 0)  # epochs
    epochs: int = within(10, 1)  # up to 100 as published, with far smaller corpora
    text_lr: float = within(5e-5, 0.0)
    new_lr: float = within(5e-4, 0.0)
    schedule: str = one_of("linear", "linear", "plateau")  # plateau as published
    plateau_patience: int = within(2, 0)  # judgements without a lower validation error before the rates are halved
    # shares of samples that keep all modalities, and words alone (what students ask for); the rest gets any of six
    full_share: float = within(0.4, 0.0, 1.0)
    text_share: float = within(0.2, 0.0, 1.0)

    # the model: TeacherConfig's fields of these names
    preset: str = one_of("drawn", "drawn", "released")
    personality: bool = True
    pre_fusion: bool = True
    enhanced_fusion: bool = True
    l_ps: float = within(0.1, 0.0)
    l_clm: float = within(0.09, 0.0)
    alignment_weight: str = one_of("distance", "distance", "similarity")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.full_share + self.text_share > 1.0:
            shares = f"{self.full_share:g} and {self.text_share:g}"
            raise UsageError(f"full_share and text_share are {shares}; together they are at most 1.")
        if self.schedule == "plateau" and not (self.patience or self.validate_every):
            raise UsageError("The plateau schedule follows the validation error: set patience or validate_every.")

    @property
    def preset_of_model(self) -> Callable[..., TeacherConfig]:
        """TeacherConfig.drawn or TeacherConfig.released."""
        return getattr(TeacherConfig, self.preset)

    @property
    def options_of_model(self) -> dict[str, bool | float | str]:
        """What the preset is changed in."""
        return {name: getattr(self, name) for name in MODEL_OPTIONS}


class PlateauSchedule(torch.optim.lr_scheduler.ReduceLROnPlateau):
    """Halves the rates when an error stops falling. The trainer steps it at each batch; what counts is an error."""

    def __init__(self, optimizer: torch.optim.Optimizer, patience: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]  # not the warm-up that the trainer's own schedule has begun
        super().__init__(optimizer, factor=0.5, patience=patience)

    def step(self, metrics: float | None = None) -> None:
        if metrics is not None:
            super().step(metrics)

    def agree(self, compute: Compute) -> None:
        """Take over the main process's rates: it alone has judged."""
        rates = compute.from_main([group["lr"] for group in self.optimizer.param_groups])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def follow(trainer: Trainer, validation: Validation | None) -> Validation:
    """Give the trainer a plateau schedule, and the schedule every error that the validation finds.

    Raises:
        UsageError: there is no validation.
    """
    if validation is None:
        raise UsageError("The plateau schedule follows the validation error: give validation data.")
    trainer.scheduler = PlateauSchedule(trainer.optimizer, trainer.settings.plateau_patience)

    def evaluate() -> dict[str, float]:
        metrics = validation.evaluate()
        trainer.scheduler.step(metrics[validation.metric])
        return metrics

    return replace(validation, evaluate=evaluate)


def draw_present(batch: int, settings: TeacherSettings, rng: np.random.Generator) -> np.ndarray:
    """One subset of modalities for each sample: (B, 1, 3) of 0 and 1."""
    partial = np.array([subset for name, subset in SUBSETS.items() if name != "all"], np.float32)  # (6, 3)
    present, luck = partial[rng.integers(0, len(partial), batch)], rng.random(batch)
    present[luck < settings.full_share + settings.text_share] = TEXT
    present[luck < settings.full_share] = ALL
    return present[:, None]


def teacher_inputs(batch: Batch, personality: np.ndarray, device: torch.device) -> list[Tensor]:
    """What Teacher.forward takes, of a batch and the personality vectors (B, Hp) of its rows; present is still
    (B, S, 3).
    """
    *streams, present = batch.arrays()
    return list(to_tensors([*streams, personality, present], device))


def train_teacher(
    teacher: Teacher,
    samples: Samples,
    personality: np.ndarray,
    settings: TeacherSettings,
    run: Run,
    validation: Validation | None = None,
) -> None:
    """Train in place, with the feature scales set (fusion_stage.set_feature_scales); leaves evaluation mode.

    Args:
        teacher: all of it trains but the parts without a gradient.
        samples: of the training split only.
        personality: (N, Hp) float32, of their sentences.
        settings, run: as every training.
        validation: for early stopping and the plateau schedule; its metric is an error, the lower the better.
    """
    compute, rng = run.compute, samples.rng
    batches = LengthBatches(np.array([len(ids) for ids in samples.text.ids]), settings.batch, rng)
    teacher.to(compute.device).train()
    pretrained = list(teacher.text.parameters())
    known = {id(p) for p in pretrained}
    new = [p for p in teacher.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": pretrained, "lr": settings.text_lr}, {"params": new, "lr": settings.new_lr}]
    trainer = Trainer(teacher, groups, settings.epochs * len(batches), settings, compute)
    if settings.schedule == "plateau":
        validation = follow(trainer, validation)
    judged_every = settings.validate_every or len(batches)

    def loss_of(rows: np.ndarray) -> Loss:
        if settings.schedule == "plateau" and trainer.done % judged_every == 0:
            trainer.scheduler.agree(compute)
        batch = share(samples.batch(rows, draw_present(len(rows), settings, rng)), compute)
        (labels,) = to_tensors([batch.labels[:, 0]], compute.device)  # (B,)
        inputs = teacher_inputs(batch, personality[rows[compute.part()]], compute.device)
        with compute.autocast(settings.bfloat16):
            output = teacher(*inputs[:-1], inputs[-1][:, 0])  # one subset a sample
        # a sample's negatives are all others of the batch, whichever process has them
        compared = {name: compute.all_rows(getattr(output, name)) for name in COMPARED}
        loss, terms = total_loss(output._replace(**compared), compute.all_rows(labels), teacher.config)
        return loss, {name: term.detach() for name, term in {"loss": loss, **terms}.items()}

    run_epochs(trainer, batches, loss_of, run, "teacher", {"composition": rng}, validation, log_every=50)


@torch.no_grad()
def validate_teacher(
    teacher: Teacher,
    samples: Samples,
    personality: np.ndarray,
    subsets: Mapping[str, tuple] = SUBSETS,
    batch: int = 64,
) -> dict[str, dict]:
    """The field's metrics for subsets of modalities, on the samples that the student is judged by; see `by_subset`.

    The samples are of the validation split, personality (N, Hp) of their sentences.
    """
    was_training = teacher.training
    teacher.eval()
    scores, labels, there = [], [], []
    for rows, drawn in judged_batches(samples, subsets, batch):
        inputs = teacher_inputs(drawn, personality[rows], device_of(teacher))
        of_all = [
            teacher(*inputs[:-1], present).score.clamp(-SCORE_LIMIT, SCORE_LIMIT)
            for present in inputs[-1].unbind(dim=1)
        ]
        scores.append(torch.stack(of_all, dim=1).cpu().numpy())  # (B, S)
        labels.append(drawn.labels)
        there.append(drawn.present)
    teacher.train(was_training)
    return by_subset(*map(np.concatenate, (scores, labels, there)), subsets)
