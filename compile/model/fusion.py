"""The fusion of PSA-MF: pre-fusion in the last text block, cross-modal attention, enhanced fusion (arXiv 2512.01442).

Everything here carries an axis S of modality subsets: each row of `present` says which of text, audio and face take
part. Training uses it as modality dropout that shares one pass of the trunk; the runtime asks for the full set and the
sets that leave one modality out, which gives each modality's contribution at almost no cost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from psamf_edge.compile.model.attention import MASKED, CrossModalBlock
from psamf_edge.compile.model.bert import BertConfig, Block


class Stream(NamedTuple):
    """What an encoder gives of one modality."""

    steps: Tensor  # (B, T, d)
    mask: Tensor  # (B, T) of 0 and 1
    summary: Tensor  # (B, d)


class FusionOutput(NamedTuple):
    """What the fusion gives, for each sample and subset."""

    score: Tensor  # (B, S), unbounded
    log_scale: Tensor  # (B, S), log of the Laplace scale of the error
    personality: Tensor  # (B, S, H)
    audio_weights: Tensor  # (B, S, h, Ta), attention over the voice
    face_weights: Tensor  # (B, S, h, Tv), attention over the face


class PersonalityHead(nn.Module):
    """The personality vector p (H) from the trunk's CLS: in the release, a third BERT of its own.

    It depends on the text alone, so a small head on the shared trunk can stand for it. Here it is trained with the
    score; distilling it from a frozen personality encoder is the teacher's part.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width))

    def forward(self, cls: Tensor) -> Tensor:
        """(B, S, H) -> (B, S, H)."""
        return self.layers(cls)


class PreFusion(nn.Module):
    """The last text block, run on [CLS; text tokens; v'; a'] and answered for CLS alone.

    a' = ReLU(W_a e_a + b_a + p), v' = ReLU(W_v e_v + b_v + p). Where the text is missing, a learned vector stands for
    CLS and the text tokens are masked, so the trunk need not run at all.
    """

    def __init__(self, config: BertConfig, width: int, dropout: float) -> None:
        super().__init__()
        self.no_text = nn.Parameter(torch.zeros(config.width))
        self.personality = PersonalityHead(config.width)
        self.audio = nn.Linear(width, config.width)
        self.face = nn.Linear(width, config.width)
        self.block = Block(config, dropout)

    def forward(
        self, hidden: Tensor, mask: Tensor, audio: Tensor, face: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """hidden (B, L, H), mask (B, L), summaries (B, d), present (B, S, 3) -> z (B, S, H), p (B, S, H)."""
        has_text, has_audio, has_face = (present[:, :, i : i + 1] for i in range(3))  # (B, S, 1) each
        cls = has_text * hidden[:, :1] + (1.0 - has_text) * self.no_text  # (B, S, H)
        p = self.personality(cls)
        a = torch.relu(self.audio(audio).unsqueeze(1) + p)  # (B, S, H)
        v = torch.relu(self.face(face).unsqueeze(1) + p)
        # every query sees the text tokens after CLS (column 0 is masked: its own CLS comes with `own`) ...
        not_cls = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, 1:]], dim=1).unsqueeze(1)  # (B, 1, L)
        token_bias = (1.0 - not_cls * has_text) * MASKED  # (B, S, L)
        # ... and its own CLS, face and voice
        own = torch.stack([cls, v, a], dim=2)  # (B, S, 3, H)
        own_valid = torch.cat([torch.ones_like(has_text), has_face, has_audio], dim=2)  # (B, S, 3)
        return self.block.query(cls, hidden, token_bias, own, (1.0 - own_valid) * MASKED), p


class EnhancedFusion(nn.Module):
    """Serial path (project, concatenate, LayerNorm, Linear) beside a parallel convolution over the stacked streams.

    Args:
        width: d, of each stream.
        dropout: rate, in training only.
        outputs: n, numbers that the head gives.
        serial: the widths that text, face and voice are projected to on the serial path; None leaves a stream as it is.
    """

    def __init__(
        self, width: int, dropout: float, outputs: int, serial: tuple[int | None, int | None, int | None]
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, to) if to else nn.Identity() for to in serial)
        joined = sum(to or width for to in serial)
        self.norm = nn.LayerNorm(joined)
        self.serial = nn.Linear(joined, 128)
        self.parallel = nn.Conv1d(3, 1, kernel_size=3)  # no padding: width - 2 values, 62 of 64
        self.head = nn.Sequential(
            nn.Linear(128 + width - 2, 128), nn.Tanh(), nn.Dropout(dropout), nn.Linear(128, 128), nn.Tanh()
        )
        self.output = nn.Linear(128, outputs)

    def forward(self, text: Tensor, face: Tensor, audio: Tensor) -> Tensor:
        """Three streams (B, S, d) -> (B, S, n)."""
        B, S, d = text.shape
        streams = (text, face, audio)
        serial = torch.cat([project(x) for project, x in zip(self.projections, streams, strict=True)], dim=2)
        serial = self.serial(self.norm(serial))  # (B, S, 128)
        stacked = torch.stack([face, audio, text], dim=2).view(B * S, 3, d)
        parallel = self.parallel(stacked).view(B, S, d - 2)
        return self.output(self.head(torch.cat([serial, parallel], dim=2)))  # (B, S, n)


class Fusion(nn.Module):
    """Hidden text states, a voice stream and a face stream to a score for each subset of modalities."""

    def __init__(self, config: BertConfig, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.pre_fusion = PreFusion(config, width, dropout)
        self.reduce = nn.Linear(config.width, width)  # t = W_r z: the one query of a clip
        self.cross_audio = CrossModalBlock(width, heads, dropout)
        self.cross_face = CrossModalBlock(width, heads, dropout)
        self.enhanced = EnhancedFusion(width, dropout, outputs=2, serial=(width, width, width))

    def forward(self, hidden: Tensor, mask: Tensor, audio: Stream, face: Stream, present: Tensor) -> FusionOutput:
        """hidden (B, L, H), mask (B, L), two streams, present (B, S, 3) of 0 and 1."""
        z, personality = self.pre_fusion(hidden, mask, audio.summary, face.summary, present)
        t = self.reduce(z)  # (B, S, d)
        heard, audio_weights = self.cross_audio(t, audio.steps, audio.mask.unsqueeze(1) * present[:, :, 1:2])
        seen, face_weights = self.cross_face(t, face.steps, face.mask.unsqueeze(1) * present[:, :, 2:3])
        y = self.enhanced(t, seen, heard)  # (B, S, 2): score and log-scale
        return FusionOutput(y[..., 0], y[..., 1], personality, audio_weights, face_weights)
