"""Random cases for a kernel, what is right for them, and how wrong it may be.

A kernel is right when its error against the float64 oracle is at most twice that of the textbook computed step by step
in the same precision, as a framework does without any fusion (the rule that FlashAttention's tests use).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from psamf_edge.kernels.cross_modal_attention.packing import HEADS, HIDDEN, WIDTH, pack
from psamf_edge.kernels.cross_modal_attention.reference import cross_modal_attention

LIMIT = 2.0  # times the error of the naive version
# Half a unit in the last place of a result of order 1: what rounding the right answer costs. A naive version may be
# closer by luck, above all where there is only one step.
ROUNDING = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float16): 2.0**-11}


def error(contexts: ndarray, expected: ndarray) -> float:
    """Root mean square of the difference. The largest one of a few hundred numbers would be a matter of luck."""
    return float(np.sqrt(np.mean((contexts.astype(float) - expected) ** 2)))


@dataclass
class Case:
    """Inputs as the kernel takes them, in one precision, and the weights that they go with in full."""

    query: ndarray  # (B, S, 64)
    audio: ndarray  # (B, Ta, 64), NaN past the longest valid length of its sample
    face: ndarray  # (B, Tv, 64), likewise
    lengths: ndarray  # (B, S, 2) int32
    blocks: tuple[dict[str, ndarray], dict[str, ndarray]]  # state of a CrossModalBlock: of the voice, of the face

    @property
    def dtype(self) -> np.dtype:
        """float32 or float16."""
        return self.query.dtype

    def weights(self) -> ndarray:
        """(2, ROW), packed."""
        return np.stack([pack(block) for block in self.blocks]).astype(self.dtype)

    def each(self, function) -> ndarray:
        """(2, B, S, 64) float64 of function(query, valid steps, state) for each modality, sample and query."""
        B, S, _ = self.query.shape
        out = np.empty((2, B, S, WIDTH))
        for m, b, s in np.ndindex(2, B, S):
            steps = (self.audio, self.face)[m][b, : self.lengths[b, s, m]]
            out[m, b, s] = function(self.query[b, s], steps, self.blocks[m])
        return out

    def expected(self) -> ndarray:
        """(2, B, S, 64): the oracle's."""
        return self.each(
            lambda query, steps, state: cross_modal_attention(query.astype(float), steps.astype(float), state)
        )

    def naive(self) -> ndarray:
        """(2, B, S, 64): the textbook's, every result rounded to the case's precision."""
        return self.each(lambda query, steps, state: naive(query, steps, state, self.dtype))

    def allowed_error(self, expected: ndarray) -> float:
        """The greatest `error` that a kernel may have against the oracle's contexts. NaN is above any bound."""
        return LIMIT * max(error(self.naive(), expected), ROUNDING[self.dtype])


def draw_block(rng: np.random.Generator, sharpness: float = 1.0) -> dict[str, ndarray]:
    """State of a random block, of the size that training gives; `sharpness` multiplies its attention's logits."""
    state = {}
    for name, out, inp in [
        *((f"attention.{part}", WIDTH, WIDTH) for part in ("query", "key", "value", "out")),
        ("feed_forward.0", HIDDEN, WIDTH),
        ("feed_forward.2", WIDTH, HIDDEN),
    ]:
        state[f"{name}.weight"] = rng.normal(size=(out, inp)) / math.sqrt(inp)
        state[f"{name}.bias"] = 0.1 * rng.normal(size=out)
    for name in ("norm", "feed_forward_norm"):
        state[f"{name}.weight"] = 1.0 + 0.2 * rng.normal(size=WIDTH)
        state[f"{name}.bias"] = 0.1 * rng.normal(size=WIDTH)
    state["attention.query.weight"] *= sharpness
    return {name: value.astype(np.float32) for name, value in state.items()}


def draw(
    rng: np.random.Generator,
    dtype: DTypeLike,
    sizes: tuple[int, int, int, int],
    lengths: ndarray | None = None,
    sharpness: float = 1.0,
) -> Case:
    """A random case.

    Args:
        rng: where the numbers come from.
        dtype: float32 or float16.
        sizes: B, S, Ta, Tv.
        lengths: (B, S, 2), or None for random ones, missing modalities among them.
        sharpness: see draw_block.
    """
    B, S, Ta, Tv = sizes
    if lengths is None:
        lengths = np.stack([rng.integers(0, longest + 1, (B, S)) for longest in (Ta, Tv)], axis=2)
    lengths = np.broadcast_to(lengths, (B, S, 2)).astype(np.int32)
    query, audio, face = (rng.normal(size=(B, steps, WIDTH)).astype(dtype) for steps in (S, Ta, Tv))
    for m, memory in enumerate((audio, face)):
        for b in range(B):
            memory[b, lengths[b, :, m].max() :] = np.nan
    return Case(query, audio, face, lengths, (draw_block(rng, sharpness), draw_block(rng, sharpness)))


def naive(query: ndarray, steps: ndarray, state: dict[str, ndarray], dtype: np.dtype) -> ndarray:
    """The textbook block, each operation in float32 and its result rounded to `dtype`.

    Args:
        query: (64,).
        steps: (T, 64), valid ones alone.
        state: of a CrossModalBlock.
        dtype: float32 or float16.

    Returns:
        (64,) of float32, rounded to `dtype`.
    """

    def rounded(x: ndarray) -> ndarray:
        return np.asarray(x).astype(dtype).astype(np.float32)

    w = {name: rounded(value) for name, value in state.items()}

    def linear(x: ndarray, name: str) -> ndarray:
        return rounded(x @ w[f"{name}.weight"].T + w[f"{name}.bias"])

    def norm(x: ndarray, name: str) -> ndarray:
        scaled = (x - x.mean()) / np.sqrt(x.var() + np.float32(1e-5))
        return rounded(scaled * w[f"{name}.weight"] + w[f"{name}.bias"])

    query, steps = rounded(query), rounded(steps)
    context = np.zeros(WIDTH, np.float32)
    if len(steps):
        q, k, v = linear(query, "attention.query"), linear(steps, "attention.key"), linear(steps, "attention.value")
        for part in np.split(np.arange(WIDTH), HEADS):
            scores = rounded(rounded(k[:, part] @ q[part]) / np.float32(math.sqrt(len(part))))  # (T,)
            share = np.exp(scores - scores.max())
            context[part] = rounded(rounded(share / share.sum()) @ v[:, part])
        context = linear(context, "attention.out")
    x = norm(rounded(query + context), "norm")
    hidden = linear(x, "feed_forward.0")  # (256,)
    erf = np.array([math.erf(value) for value in hidden / math.sqrt(2.0)], np.float32)
    x = rounded(x + linear(rounded(0.5 * hidden * (1.0 + erf)), "feed_forward.2"))
    return norm(x, "feed_forward_norm")
