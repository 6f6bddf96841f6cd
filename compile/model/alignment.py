"""The losses of PSA-MF: contrast, alignment of personality and sentiment, and their sum (arXiv 2512.01442).

Samples whose text, voice or face is missing have nothing to align: each term is a mean over the samples that have what
it compares, and zero where none has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psamf_edge.compile.model.attention import MASKED

if TYPE_CHECKING:
    from psamf_edge.compile.model.teacher import TeacherConfig, TeacherOutput

CLIP_WIDTH = 128  # of the projections whose similarity is compared
LOG_SCALE = math.log(1 / 0.07)  # CLIP's log-scale at the start of its training; the release keeps it constant
CLIP_SCALES = {"clip": math.exp(LOG_SCALE), "released": LOG_SCALE}  # 14.3, and 2.66: not exponentiated


class Pair(NamedTuple):
    """Two sides of a contrast, row by row of the same sample."""

    x: Tensor  # (B, 128)
    y: Tensor  # (B, 128)


class ContrastiveProjection(nn.Module):
    """The two projections of Clip(x, y).

    Args:
        x_width, y_width: what the sides come in.
        form: "clip" normalises both sides after projecting; "released" normalises y before its projection.
    """

    def __init__(self, x_width: int, y_width: int, form: str) -> None:
        super().__init__()
        self.x = nn.Linear(x_width, CLIP_WIDTH)
        self.y = nn.Linear(y_width, CLIP_WIDTH)
        self.form = form

    def forward(self, x: Tensor, y: Tensor) -> Pair:
        """x (B, x_width), y (B, y_width) -> two of (B, 128)."""
        if self.form == "released":
            return Pair(F.normalize(self.x(x)), self.y(F.normalize(y)))
        return Pair(F.normalize(self.x(x)), F.normalize(self.y(y)))


def at_least_single(*tensors: Tensor) -> Iterator[Tensor]:
    """Halves to float32, what is finer as it is: under autocast the sides come in bfloat16, too coarse for a cosine."""
    return (x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)


def contrastive_loss(pair: Pair, form: str, valid: Tensor) -> Tensor:
    """Each sample's share (B,) of Clip(x, y): the mean of its row's and its column's cross entropy in the batch.

    valid (B,) of 0 and 1: other samples get zero and are nobody's negative. A batch of one gives zero.
    """
    x, y = at_least_single(*pair)
    logits = CLIP_SCALES[form] * x @ y.T  # (B, B)
    logits = logits.masked_fill(valid[:, None] * valid[None, :] == 0, MASKED)
    rows, columns = logits.log_softmax(dim=1).diagonal(), logits.log_softmax(dim=0).diagonal()
    return -0.5 * (rows + columns) * valid


def mean_of_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of values (B,) where valid (B,) is 1; zero where it never is."""
    return (values * valid).sum() / valid.sum().clamp(min=1.0)


def contrast_share(u: Tensor, q: Tensor, valid: Tensor, similarity: str, weight: str) -> Tensor:
    """What L_ccl is multiplied by, (B,) in [0, 1]; L_ps gets the rest.

    The distance D = (1 - cos(u, q)) / 2 of each sample ("sample"), or its mean over the batch ("batch"). With weight
    "similarity" it is 1 - D instead, the cosine moved to [0, 1].
    """
    distance = (1.0 - F.cosine_similarity(*at_least_single(u, q), dim=1)) / 2.0  # (B,)
    if similarity == "batch":
        distance = mean_of_valid(distance, valid).expand_as(distance)
    return distance if weight == "distance" else 1.0 - distance


class Alignment(NamedTuple):
    """What the personality-sentiment alignment compares."""

    u: Tensor  # (B, d) = P1 CLS_k
    q: Tensor  # (B, d) = Pp p
    contrast: Pair  # u and q projected
    r: Tensor | None  # (B, d) = P2 CLS_k; None without L_ps
    score: Tensor | None  # (B,) = Linear(r)


class PersonalityAlignment(nn.Module):
    """Projections of the text's CLS after block k, and of the personality vector (arXiv 2512.01442)."""

    def __init__(self, text_width: int, personality_width: int, width: int, form: str, scored: bool) -> None:
        super().__init__()
        self.sentiment = nn.Linear(text_width, width)  # P1
        self.personality = nn.Linear(personality_width, width)  # Pp
        self.contrast = ContrastiveProjection(width, width, form)
        self.scored = nn.Linear(text_width, width) if scored else None  # P2
        self.score = nn.Linear(width, 1) if scored else None

    def forward(self, cls: Tensor, p: Tensor) -> Alignment:
        """cls (B, H), p (B, Hp)."""
        u, q = self.sentiment(cls), self.personality(p)  # (B, d)
        if self.scored is None:
            return Alignment(u, q, self.contrast(u, q), None, None)
        r = self.scored(cls)  # (B, d)
        return Alignment(u, q, self.contrast(u, q), r, self.score(r).squeeze(1))


def total_loss(output: TeacherOutput, labels: Tensor, config: TeacherConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """L1(y^, y) + L_ccl + 0.1 L_ps + 0.09 L_clm (arXiv 2512.01442), for labels (B,) in float32; not under autocast.

    Returns:
        The sum, and its terms before they are weighted: "l1", and "ccl", "ps", "clm" where the config has them.
    """
    has_text, has_audio, has_face = output.present.unbind(dim=1)  # (B,) each
    terms = {"l1": (output.score - labels).abs().mean()}
    if (aligned := output.alignment) is not None:
        share = contrast_share(aligned.u, aligned.q, has_text, config.similarity, config.alignment_weight)  # (B,)
        contrast = contrastive_loss(aligned.contrast, config.clip, has_text)  # (B,)
        terms["ccl"] = mean_of_valid(share * contrast, has_text)
        if aligned.score is not None:
            terms["ps"] = mean_of_valid((1.0 - share) * (aligned.score - labels).abs(), has_text)
    if output.contrasts is not None:
        terms["clm"] = sum(
            mean_of_valid(contrastive_loss(pair, config.clip, valid), valid)
            for pair, valid in zip(output.contrasts, (has_text * has_audio, has_text * has_face), strict=True)
        )
    weights = {"l1": 1.0, "ccl": 1.0, "ps": config.l_ps, "clm": config.l_clm}
    return sum(weights[name] * term for name, term in terms.items()), terms
