"""Voice and face encoders with no recurrence: strided convolutions, then attentive statistics pooling.

PSA-MF runs an LSTM over up to 500 steps, whose steps cannot overlap and which therefore costs more than everything else
on a GPU (docs in kernels/). A convolution sees the same neighbourhood in one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psamf_edge.compile.model.attention import MASKED


class StatisticsPooling(nn.Module):
    """Attention-weighted mean and standard deviation over the valid steps (Okabe et al. 2018, arXiv 1803.10963)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.project = nn.Linear(2 * width, width)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """h (B, T, d), mask (B, T) of 0 and 1 -> (B, d)."""
        energy = self.energy(h).squeeze(2) + (1.0 - mask) * MASKED  # (B, T)
        weights = torch.softmax(energy, dim=1).unsqueeze(2)  # (B, T, 1)
        mean = (weights * h).sum(dim=1)  # (B, d)
        variance = (weights * (h - mean.unsqueeze(1)).square()).sum(dim=1)  # (B, d)
        # 1e-4: the gradient of a square root at zero is infinite, and a one-step clip has no variance
        return self.project(torch.cat([mean, (variance + 1e-4).sqrt()], dim=1))


class StandardisingEncoder(nn.Module):
    """What takes raw features: mean and 1 / standard deviation of each over the training data are part of the weights.

    Args:
        features: F.
        limit: the most standard deviations that a feature counts for; None sets no limit.
    """

    def __init__(self, features: int, limit: float | None = 6.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))

    def standardise(self, x: Tensor) -> Tensor:
        """(B, T, F) raw to (B, T, F) in standard deviations from the mean."""
        x = (x - self.feature_mean) * self.feature_scale
        # clamp: one broken frame must not push the whole clip out of the range seen in training
        return x if self.limit is None else x.clamp(-self.limit, self.limit)


class SequenceEncoder(StandardisingEncoder):
    """Feature steps (B, T, F) to hidden steps (B, T', d) and one summary (B, d).

    Args:
        features: F.
        width: d.
        strides: the stride of each convolution; T' is T divided by their product, rounded up.
        dropout: rate, in training only.
    """

    KERNEL = 5  # odd, so that padding by KERNEL // 2 keeps step t of the output over step t * stride of the input

    def __init__(self, features: int, width: int, strides: tuple[int, ...], dropout: float) -> None:
        super().__init__(features)
        self.strides = strides
        sizes = [features, *[width] * len(strides)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, self.KERNEL, stride=s, padding=self.KERNEL // 2)
            for a, b, s in zip(sizes, sizes[1:], strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in strides)
        self.dropout = nn.Dropout(dropout)
        self.pooling = StatisticsPooling(width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, F), mask (B, T) of 0 and 1 -> hidden steps (B, T', d), their mask (B, T'), summary (B, d)."""
        x = self.standardise(x)
        for convolution, norm, stride in zip(self.convolutions, self.norms, self.strides, strict=True):
            x = x * mask.unsqueeze(2)  # padding enters the convolution as zeros, whatever it held
            x = convolution(x.transpose(1, 2)).transpose(1, 2)  # (B, T / stride, d)
            mask = mask[:, ::stride]
            x = self.dropout(nn.functional.gelu(norm(x)))
        return x, mask, self.pooling(x, mask)
