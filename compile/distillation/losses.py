"""What a student can take from a teacher, one function a term. All are means over the batch, in float32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def score_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 between scores of the same shape: the loss that the labels have as well."""
    return (student.float() - teacher).abs().mean()


def hidden_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the directions of hidden states (B, H), in [0, 4].

    Patient distillation's choice (Sun et al. 2019, arXiv 1908.09355, equation 7): the length of a hidden state is
    undone by the next norm, so only its direction is asked for.
    """
    gap = F.normalize(student.float(), dim=-1) - F.normalize(teacher, dim=-1)
    return gap.square().sum(dim=-1).mean()


def personality_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of personality vectors (B, H), plus the squared error of their lengths relative to the teacher's.

    The vector enters the pre-fusion through a ReLU, so here its length matters as well as its direction.
    """
    student = student.float()
    length = student.norm(dim=-1) / teacher.norm(dim=-1).clamp(min=1e-6) - 1.0  # (B,)
    return (1.0 - F.cosine_similarity(student, teacher, dim=-1) + length.square()).mean()


def attention_divergence(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Kullback-Leibler divergence of where the student looks from where the teacher looks, in nats.

    Args:
        student: (B, T) weights over the steps, each row summing to one over its valid steps.
        teacher: (B, T), likewise.
        valid: (B, T) of 0 and 1. A sample with no valid step has no say.
    """
    logs = student.float().clamp(min=1e-8).log()  # a weight of zero would make an infinite loss of a rounding error
    each = (teacher * (teacher.clamp(min=1e-8).log() - logs) * valid).sum(dim=-1)  # (B,)
    looked = valid.amax(dim=-1)  # (B,)
    return (each * looked).sum() / looked.sum().clamp(min=1.0)


def mean_over_heads(weights: Tensor) -> Tensor:
    """Attention summaries (..., T) of weights (..., h, T): heads of two models do not correspond, their mean does."""
    return weights.float().mean(dim=-2)
