"""PSA-MF's voice and face encoder as published (arXiv 2512.01442): a unidirectional LSTM layer over the valid steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from psamf_edge.compile.model.encoders import StandardisingEncoder
from psamf_edge.errors import UsageError


class RecurrentEncoder(StandardisingEncoder):
    """Feature steps (B, T, F) to the LSTM's outputs (B, T, d) and one summary (B, d) of the last valid one.

    Args:
        features: F.
        width: d.
        limit: see StandardisingEncoder.

    A step sees only those before it, so padding at the end changes no valid step, and no packing is needed. A sequence
    without a valid step has outputs of zero and the summary of a state of zero.
    """

    def __init__(self, features: int, width: int, limit: float | None) -> None:
        super().__init__(features, limit)
        self.lstm = nn.LSTM(features, width, batch_first=True)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, F), mask (B, T) of 0 and 1 -> outputs (B, T, d), zero on padding; mask (B, T); summary (B, d).

        T of zero gives one step of padding.

        Raises:
            UsageError: a mask has a valid step after one that is not.
        """
        if x.shape[1] == 0:  # torch's LSTM wants a step
            x, mask = nn.functional.pad(x, (0, 0, 0, 1)), nn.functional.pad(mask, (0, 1))
        if (mask[:, 1:] > mask[:, :-1]).any():
            raise UsageError("A sequence has padding before a valid step; move its valid steps to the front.")
        valid = mask.unsqueeze(2)  # (B, T, 1)
        x = torch.where(valid > 0, self.standardise(x), 0.0)  # not a product: padding may hold NaN
        steps = self.lstm(x)[0] * valid  # (B, T, d)
        last = (mask.sum(dim=1).long() - 1).clamp(min=0)  # (B,)
        return steps, mask, self.project(steps[torch.arange(len(steps), device=steps.device), last])
