"""Stage 2: the voice encoder learns valence and emotion from acted speech, before it meets the words.

Valence alone is one number a recording, and twelve hundred recordings are few: naming the emotion as well is what makes
the encoder generalise to new speakers. Stage 3 keeps to what the valence head says; then the heads are thrown away.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from psamf_edge.compile.data.compose import SIDE_RATES, SIDES
from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.compile.data.valence import VALENCE, side_of
from psamf_edge.compile.data.voice_augment import VoiceAugmenter
from psamf_edge.compile.files import atomic, write_tensors
from psamf_edge.compile.model.encoders import SequenceEncoder
from psamf_edge.compile.training.batching import DrawnBatches
from psamf_edge.compile.training.device import device_of, to_tensors
from psamf_edge.compile.training.epochs import Loss, Run, Validation, run_epochs
from psamf_edge.compile.training.loop import Trainer
from psamf_edge.compile.training.settings import TrainSettings
from psamf_edge.compile.training.validation import sign_accuracy
from psamf_edge.errors import UsageError

# sides by these shares: the corpora have four negative emotions for one positive
SIDE_SHARE = dict(zip(SIDES, SIDE_RATES, strict=True))
# what the result depends on beside the recordings
SETTINGS = (
    "seed", "batch", "weight_decay", "gradient_clip", "warmup", "average_decay", "bfloat16", "patience",
    "validate_every", "voice_steps", "voice_lr", "voice_dropout", "voice_mixup",
)  # fmt: skip


class VoiceTask(nn.Module):
    """The encoder under training with its two heads: valence (1) and emotions (E)."""

    def __init__(self, encoder: SequenceEncoder, emotions: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.pooling.project.out_features, 1 + emotions)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (B, T, 63), mask (B, T) -> valence (B,), emotion logits (B, E)."""
        _, _, summary = self.encoder(x, mask)
        y = self.head(self.dropout(summary))
        return y[:, 0], y[:, 1:]

    @torch.no_grad()
    def valence(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x (B, T, 63), mask (B, T) -> valence (B,), without a gradient."""
        return self(x, mask)[0]


def sampling_weights(emotions: np.ndarray) -> np.ndarray:
    """How often to draw each recording (N,): sides by SIDE_SHARE, the emotions of a side alike."""
    weights = np.array([1.0 / np.sum(emotions == e) for e in emotions])
    sides = np.array([side_of(VALENCE[e]) for e in emotions])
    for side, share in SIDE_SHARE.items():
        if (sides == side).any():
            weights[sides == side] *= share / weights[sides == side].sum()
    return weights / weights.sum()


def mix(
    x: torch.Tensor, targets: tuple[torch.Tensor, ...], alpha: float, rng: np.random.Generator
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412): each sample blended with another of the batch, targets alike.

    x (B, T, F), targets (B, ...). The larger share stays with the sample itself, whose mask is kept.
    """
    B = len(x)
    share = rng.beta(alpha, alpha, B)
    share, other = to_tensors((np.maximum(share, 1.0 - share).astype(np.float32), rng.permutation(B)), x.device)  # (B,)

    def blend(values: torch.Tensor) -> torch.Tensor:
        weight = share.view(B, *[1] * (values.ndim - 1))
        return weight * values + (1.0 - weight) * values[other]

    return blend(x), tuple(blend(target) for target in targets)


def train_voice(
    encoder: SequenceEncoder,
    speech: SpeechSet,
    settings: TrainSettings,
    run: Run,
    valid: SpeechSet | None = None,
) -> VoiceTask:
    """Train the encoder in place on the recordings of `speech`; its feature scales must be set.

    `valid` holds recordings of other speakers, for early stopping. Returns the encoder with its heads.
    """
    compute, rng = run.compute, np.random.default_rng(settings.seed + 2)
    names = emotions_of(speech)
    classes = np.array([names.index(e) for e in speech.emotions])
    one_hot = np.eye(len(names), dtype=np.float32)
    valence = np.array([VALENCE[e] for e in speech.emotions], np.float32)
    batches = DrawnBatches(sampling_weights(speech.emotions), settings.batch, rng)
    augment, mean = VoiceAugmenter(rng), encoder.feature_mean.cpu().numpy()
    task = VoiceTask(encoder, len(names), settings.voice_dropout).to(compute.device).train()
    groups = [{"params": list(task.parameters()), "lr": settings.voice_lr}]
    trainer = Trainer(task, groups, settings.voice_steps, settings, compute)

    def loss_of(rows: np.ndarray) -> Loss:
        # centred, so that what a longer sample is blended with beyond the end of its partner is the mean voice
        centred, mask = to_tensors(pad([augment(speech.features[i]) - mean for i in rows], np.float32), compute.device)
        targets = to_tensors((valence[rows], one_hot[classes[rows]]), compute.device)
        centred, targets = mix(centred, targets, settings.voice_mixup, rng)
        part = compute.part()
        score, emotion = (target[part] for target in targets)
        with compute.autocast(settings.bfloat16):
            predicted, logits = task(centred[part] + encoder.feature_mean, mask[part])
        # smoothing: acted emotions are not always heard as what they were meant to be
        named = nn.functional.cross_entropy(logits.float(), emotion, label_smoothing=0.1)
        loss = (predicted.float() - score).abs().mean() + named
        return loss, {"loss": loss.detach()}

    validation = None if valid is None else Validation(lambda: judge(task, valid), "sign_accuracy", higher=True)
    run_epochs(trainer, batches, loss_of, run, "voice", {"rows": rng}, validation)
    return task


def emotions_of(speech: SpeechSet) -> list[str]:
    """The classes of the emotion head, in its order."""
    return sorted(set(speech.emotions.tolist()))


def keep_voice(task: VoiceTask, path: Path, settings: TrainSettings) -> None:
    """Write what stage 2 made."""
    made_with = {name: getattr(settings, name) for name in SETTINGS}
    tensors = {name: value.cpu().contiguous() for name, value in task.state_dict().items()}
    with atomic(path) as new:
        write_tensors(new, tensors, {"settings": json.dumps(made_with)})


def kept_voice(path: Path, encoder: SequenceEncoder, speech: SpeechSet, settings: TrainSettings) -> VoiceTask:
    """What `keep_voice` wrote, in place of what `train_voice` would make of the same recordings.

    Raises:
        UsageError: it was made with other settings, or is of another model or of other emotions.
    """
    task = VoiceTask(encoder, len(emotions_of(speech)), settings.voice_dropout)
    with safe_open(path, "pt") as file:
        had = json.loads((file.metadata() or {}).get("settings", "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    for name in SETTINGS:
        if had.get(name) != getattr(settings, name):
            raise UsageError(
                f"{path} was made with {name} {had.get(name)}, and {getattr(settings, name)} is asked for; delete it, "
                "so that the voice is trained anew."
            )
    try:
        task.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(f"{path} does not fit this model; delete it, so that the voice is trained anew.") from error
    return task.eval()  # as training leaves it: its answers are targets of stage 3, without dropout


def hear(task: VoiceTask, speech: SpeechSet) -> np.ndarray:
    """The valence of each recording (N,)."""
    scores = []
    for start in range(0, len(speech.features), 64):
        x, mask = to_tensors(pad(speech.features[start : start + 64], np.float32), device_of(task))
        scores.append(task.valence(x, mask).cpu().numpy())
    return np.concatenate(scores)


def judge(task: VoiceTask, speech: SpeechSet) -> dict[str, float]:
    """Balanced accuracy of the valence sign on each corpus, and their mean."""
    scores, each = hear(task, speech), {}
    for corpus in np.unique(speech.corpora):
        chosen = speech.corpora == corpus
        each[f"sign_accuracy.{corpus}"] = sign_accuracy(scores[chosen], speech.emotions[chosen])
    return {"sign_accuracy": float(np.mean(list(each.values()))), **each}
