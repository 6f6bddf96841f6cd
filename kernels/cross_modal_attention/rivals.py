"""The block as PyTorch computes it, for the lab: eager, through torch.compile, and with scaled_dot_product_attention.

All are given both modalities, as one call; masks and weights are made beforehand. For scale there is cuDNN's LSTM too,
as wide as the block, over the same steps: what a recurrence before the block would add (../README.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy import ndarray

from psamf_edge.errors import MissingDependencyError
from psamf_edge.kernels.cross_modal_attention.packing import HEADS, WIDTH
from psamf_edge.kernels.cross_modal_attention.validation import Case


@dataclass(frozen=True)
class Rival:
    """One way of PyTorch's.

    name: for the table.
    enqueue: puts one run on the stream.
    capture: f(n) gives a function that puts n runs on the stream as one CUDA graph.
    result: (2, B, S, 64) of the last run; None where the rival computes something else.
    """

    name: str
    enqueue: Callable[[], None]
    capture: Callable[[int], Callable[[], None]]
    result: Callable[[], ndarray] | None


def torch_rivals(case: Case, stream: int) -> list[Rival]:
    """Every way, in the case's precision, on a stream of the primary context.

    Raises:
        MissingDependencyError: PyTorch is not installed, or was built without CUDA.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("PyTorch is not installed: no comparison with it.") from error
    if not torch.cuda.is_available():
        raise MissingDependencyError("This PyTorch has no CUDA: no comparison with it.")
    from psamf_edge.compile.model.attention import CrossModalBlock

    dtype = getattr(torch, case.dtype.name)
    blocks = []
    for state in case.blocks:
        block = CrossModalBlock(WIDTH, HEADS).eval()
        block.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        blocks.append(block.to("cuda", dtype))
    # PyTorch reads padding and masks it, so there it must be finite
    query, audio, face = (torch.from_numpy(np.nan_to_num(x)).cuda() for x in (case.query, case.audio, case.face))
    lengths = torch.from_numpy(case.lengths).cuda()
    memories = (audio, face)
    valid = [
        (torch.arange(memory.shape[1], device="cuda") < lengths[:, :, m : m + 1]).to(dtype)
        for m, memory in enumerate(memories)
    ]

    def eager() -> Any:
        parts = [block(query, memory, v)[0] for block, memory, v in zip(blocks, memories, valid, strict=True)]
        return torch.stack(parts)

    def sdpa() -> Any:
        return torch.stack([_sdpa(torch, *parts) for parts in zip(blocks, [query] * 2, memories, valid, strict=True)])

    side = torch.cuda.ExternalStream(stream)
    ways = {
        "PyTorch eager": eager,
        "torch.compile": torch.compile(eager, mode="max-autotune-no-cudagraphs"),
        "scaled_dot_product_attention": sdpa,
    }
    recurrences = [torch.nn.LSTM(WIDTH, WIDTH, batch_first=True).to("cuda", dtype) for _ in memories]

    def recurrent() -> Any:
        return [recurrence(memory)[0] for recurrence, memory in zip(recurrences, memories, strict=True)]

    return [
        *(_rival(torch, name, way, side) for name, way in ways.items()),
        replace(_rival(torch, "cuDNN LSTM, for scale", recurrent, side), result=None),
    ]


def _sdpa(torch: Any, block: Any, query: Any, memory: Any, valid: Any) -> Any:
    """The block with PyTorch's fused attention in place of the folded one: keys and values are formed."""
    attention = block.attention

    def heads(x: Any) -> Any:
        return x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)  # (B, h, T, d / h)

    context = torch.nn.functional.scaled_dot_product_attention(
        heads(attention.query(query)),
        heads(attention.key(memory)),
        heads(attention.value(memory)),
        attn_mask=((1.0 - valid) * -1e4).unsqueeze(1),
    )
    context = attention.out(context.transpose(1, 2).flatten(2)) * valid.amax(dim=2, keepdim=True)
    x = block.norm(query + context)
    return block.feed_forward_norm(x + block.feed_forward(x))


def _rival(torch: Any, name: str, way: Callable[[], Any], stream: Any) -> Rival:
    last: list[Any] = []

    def enqueue() -> None:
        with torch.inference_mode(), torch.cuda.stream(stream):
            last[:] = [way()]

    def capture(runs: int) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph, stream=stream):
            outputs = [way() for _ in range(runs)]

        def replay(kept: list[Any] = outputs) -> None:  # the graph writes into these: they must live as long
            with torch.cuda.stream(stream):
                graph.replay()

        return replay

    def result() -> ndarray:
        torch.cuda.synchronize()
        return last[0].float().cpu().numpy()

    return Rival(name, enqueue, capture, result)
