"""Every number that a training run depends on. Written beside the weights and into the manifest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the three stages. The defaults made the shipped weights."""

    seed: int = 0
    max_tokens: int = 96  # 99.7 % of MOSI and MOSEI sentences are shorter; the cost of attention grows with the square
    batch: int = 32
    weight_decay: float = 0.01
    gradient_clip: float = 1.0  # as published
    warmup: float = 0.06  # share of the steps
    average_decay: float = 0.998  # of the exponential moving average of the weights, which is what is kept
    scale_weight: float = 0.1  # of the loss that fits the error scale behind the confidence

    # stage 1: trunk and last block on text alone
    text_epochs: int = 3
    mosi_repeats: int = 3  # MOSI is thirteen times smaller than MOSEI, and written differently
    trunk_lr: float = 5e-5
    new_lr: float = 5e-4

    # stage 2: the voice encoder on acted speech
    voice_steps: int = 1500
    voice_lr: float = 2e-3
    voice_dropout: float = 0.1  # before the heads
    voice_mixup: float = 1.0  # alpha: any share alike; without it the encoder learns its sixteen actors by heart

    # stage 3: the rest, on composed samples
    fusion_epochs: int = 5
    fusion_lr: float = 7e-4
