"""The expression net in PyTorch: a thin residual CNN (arXiv:1512.03385) on a 48x48 grey face."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from psamf_edge.face.crop import CROP_PIXELS
from psamf_edge.face.expression import EMBEDDING_SIZE, EXPRESSIONS

STEM = 32  # channels at 24x24. All widths are multiples of 16: ONNX Runtime's blocked AVX-512 convolutions need that
MIDDLE = 48  # channels at 12x12
TOP = 112  # channels at 6x6
CELLS = CROP_PIXELS // 8  # along one side after three halvings
DROPOUT = 0.1  # before the embedding
FLAT_CONTRAST = 4 / 255  # a crop whose grey levels spread less than this is not stretched: its contrast is noise


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size (or halves it) and its batch norm, which the export folds away."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; with stride 2 the shortcut averages (arXiv:1812.01187, ResNet-D)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = convolution(outputs, outputs, 3)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), convolution(inputs, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ExpressionCNN(nn.Module):
    """Grey faces to expression logits and an embedding.

    The embedding passes through a LayerNorm without gain: its 32 values have mean 0 and unit RMS, so none exceeds
    sqrt(31), and whatever reads it needs no scaling of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(1, STEM, 5, 2)  # (B, STEM, 24, 24)
        self.blocks = nn.Sequential(
            ResidualBlock(STEM, MIDDLE, 2),  # (B, MIDDLE, 12, 12)
            ResidualBlock(MIDDLE, MIDDLE),
            ResidualBlock(MIDDLE, TOP, 2),  # (B, TOP, 6, 6)
        )
        # One weight for each channel and place instead of a mean: an aligned mouth always lies in the same cells.
        self.pool = nn.Parameter(torch.full((TOP, CELLS, CELLS), 1 / CELLS**2))
        self.dropout = nn.Dropout(DROPOUT)
        self.embed = nn.Linear(TOP, EMBEDDING_SIZE)
        self.classify = nn.Linear(EMBEDDING_SIZE, len(EXPRESSIONS))

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """crops (B, 48, 48), uint8 or float in [0, 255], to logits (B, 7) and embedding (B, 32)."""
        x = crops[:, None].float() / 255  # (B, 1, 48, 48)
        x = F.layer_norm(x, (CROP_PIXELS, CROP_PIXELS), eps=FLAT_CONTRAST**2)  # each crop's own mean and contrast
        x = self.blocks(F.relu(self.stem(x)))  # (B, TOP, 6, 6)
        x = (x * self.pool).sum(dim=(2, 3))  # (B, TOP)
        embedding = F.layer_norm(self.embed(self.dropout(x)), (EMBEDDING_SIZE,))  # (B, 32)
        return self.classify(embedding), embedding
