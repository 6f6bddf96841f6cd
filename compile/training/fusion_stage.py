"""Stage 3: face and fusion learn on samples of all modalities, on top of the frozen text blocks and voice encoder.

The trunk does not change, so its hidden states are computed once for each sentence; an epoch then costs about a minute
on one core. Each sentence is scored for several subsets of modalities in one pass: that is the modality dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.samples import Batch, Samples, Statistics
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.model import Student
from psamf_edge.compile.model.encoders import StandardisingEncoder
from psamf_edge.compile.model.fusion import FusionOutput, Stream
from psamf_edge.compile.training.batching import LengthBatches
from psamf_edge.compile.training.device import Compute, device_of, to_tensors
from psamf_edge.compile.training.epochs import Loss, Run, Validation, run_epochs
from psamf_edge.compile.training.loop import Trainer
from psamf_edge.compile.training.objective import Objective, Scored, score_objective
from psamf_edge.compile.training.reading import by_length
from psamf_edge.compile.training.settings import TrainSettings

if TYPE_CHECKING:
    from psamf_edge.compile.model.teacher import Teacher

TEXT, AUDIO, FACE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
ALL = (1.0, 1.0, 1.0)
MIXED = ((1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.0, 1.0, 1.0))
# each sentence is trained on these four subsets and one of the mixed ones
FIXED_SUBSETS = (TEXT, AUDIO, FACE, ALL)


def draw_subsets(batch: int, rng: np.random.Generator) -> np.ndarray:
    """Presence rows (B, S, 3) for one batch."""
    present = np.empty((batch, len(FIXED_SUBSETS) + 1, 3), np.float32)
    present[:, :-1] = FIXED_SUBSETS
    present[:, -1] = np.array(MIXED, np.float32)[rng.integers(0, len(MIXED), batch)]
    return present


@torch.no_grad()
def hidden_states(student: Student, text: TextSet, batch: int = 64) -> list[np.ndarray]:
    """The trunk's output (L_i, H) of every sentence, as float16 to hold them all in memory."""
    student.eval()
    hidden: list[np.ndarray] = [np.empty(0)] * len(text)
    for rows, ids, mask in by_length(text.ids, batch, device_of(student)):
        states = student.trunk(ids, mask).half().cpu().numpy()  # (B, L, H)
        for row, state in zip(rows, states, strict=True):
            hidden[row] = state[: len(text.ids[row])]
    return hidden


def score_batch(student: Student, batch: Batch, states: Tensor, mask: Tensor) -> FusionOutput:
    """Score a batch whose trunk outputs (B, L, H) and their mask (B, L) are known."""
    audio, audio_mask, face, face_mask, present = to_tensors(batch.arrays()[2:], states.device)
    voice, sight = Stream(*student.audio(audio, audio_mask)), Stream(*student.face(face, face_mask))
    return student.fusion(states, mask, voice, sight, present)


def set_feature_scales(model: Student | Teacher, samples: Samples) -> None:
    """Write the training samples' mean and spread of each feature into the encoders; features not used get scale 0."""
    for encoder, found in zip((model.audio, model.face), samples.statistics(), strict=True):
        set_scale(encoder, found)


def set_scale(encoder: StandardisingEncoder, found: Statistics) -> None:
    """The same for one encoder."""
    # a feature that hardly varies in training must not be blown up when it does on a user's clip
    scale = 1.0 / np.maximum(found.spread, 1e-3 * max(1.0, float(found.spread.max())))
    encoder.feature_mean.copy_(torch.from_numpy(found.mean))
    encoder.feature_scale.copy_(torch.from_numpy(scale.astype(np.float32)))
    if found.unused is not None:
        encoder.feature_scale[torch.from_numpy(found.unused)] = 0.0


SIGN_SCALE = 0.05  # of a score; eight-bit weights move those of faces by a tenth of it
SUBSET_NAMES = ("text", "audio", "face", "all", "mixed")


def train_fusion(
    student: Student,
    samples: Samples,
    settings: TrainSettings,
    run: Run,
    objective: Objective = score_objective,
    validation: Validation | None = None,
    hear: Callable[[Tensor, Tensor], Tensor] | None = None,
    voice_is_learnt: bool = True,
) -> None:
    """Train in place, with the feature scales set.

    Args:
        samples: of the training split only.
        hear: stage 2's own answer, voices (B, T, 63) and their mask (B, T) to valence (B,), which the score of a voice
            alone is to keep: its labels are those that the encoder knows by heart.
        voice_is_learnt: stage 2 has trained the voice encoder, which is frozen then; otherwise it trains with the rest.
    """
    compute, rng = run.compute, samples.rng
    student.to(compute.device)
    hidden = hidden_states(student, samples.text)
    batches = LengthBatches(np.array([len(h) for h in hidden]), settings.batch, rng)
    student.train()
    learnt = [student.trunk, student.fusion.pre_fusion.block, *([student.audio] if voice_is_learnt else [])]
    for frozen in learnt:
        frozen.requires_grad_(False).eval()  # its dropout would only add noise that the rest must fit
    groups = [{"params": [p for p in student.parameters() if p.requires_grad], "lr": settings.fusion_lr}]
    trainer = Trainer(student, groups, settings.fusion_epochs * len(batches), settings, compute)

    def loss_of(rows: np.ndarray) -> Loss:
        batch = share(samples.batch(rows, draw_subsets(len(rows), rng)), compute)
        rows = rows[compute.part()]
        states, mask = to_tensors(pad([hidden[i].astype(np.float32) for i in rows], np.float32), compute.device)
        (labels,) = to_tensors([batch.labels], compute.device)  # (B, S)
        with compute.autocast(settings.bfloat16):
            output = score_batch(student, batch, states, mask)
        loss, terms = objective(Scored(output, states, mask, rows, labels, batch), settings)
        if hear:
            heard = hear(*to_tensors((batch.audio, batch.audio_mask), compute.device))
            gap = (output.score[:, SUBSET_NAMES.index("audio")].float() - heard).abs().mean()
            loss, terms = loss + settings.voice_weight * gap, {**terms, "voice": gap.detach()}
        wrong = wrong_signs(compute.all_rows(output.score.float()), compute.all_rows(labels))
        loss, terms = loss + settings.sign_weight * wrong, {**terms, "wrong": wrong.detach()}
        errors = (output.score.detach().float() - labels).abs().mean(dim=0)  # (S,)
        return loss, {**dict(zip(SUBSET_NAMES, errors, strict=True)), **terms}

    run_epochs(trainer, batches, loss_of, run, "fusion", {"composition": rng}, validation)


def wrong_signs(score: Tensor, labels: Tensor) -> Tensor:
    """The share of scores (B, S) whose sign is not that of their label (B, S), smoothed; labels of 0 do not count.

    L1 gives the median, which for a face that may as well be neutral is 0 to a thousandth: its sign would be left to
    the rounding of the weights. This says which side is the likelier, and beyond some SIGN_SCALE of 0 it says nothing.
    """
    signed = labels != 0
    return torch.sigmoid(-labels.sign() * score / SIGN_SCALE)[signed].mean() if signed.any() else score.sum() * 0.0


def share(batch: Batch, compute: Compute) -> Batch:
    """This process's samples of a batch that all have drawn alike."""
    part = compute.part()
    return Batch(*(getattr(batch, item.name)[part] for item in fields(batch)))
