"""What the block must move and compute, counted, and the least time that takes on a device: python -m ...limits"""

from __future__ import annotations

from dataclasses import dataclass

from psamf_edge.kernels.cross_modal_attention.packing import HEADS, HIDDEN, ROW, WIDTH

L2_TO_SM = 64  # bytes a clock that one multiprocessor reads from L2, Turing to Blackwell
FMA = 128  # fused multiply-adds a clock of one multiprocessor in float32; 64 on Turing and the A100


@dataclass(frozen=True)
class Device:
    """From its data sheet: bytes a second of memory, clock in Hz, multiprocessors."""

    name: str
    bandwidth: float
    clock: float
    multiprocessors: int


DEVICES = (
    Device("Orin Nano 8 GB", 68e9, 0.625e9, 8),
    Device("AGX Orin 64 GB", 204.8e9, 1.3e9, 16),
    Device("H200", 4.8e12, 1.98e9, 132),
)


def block_bytes(steps: int, itemsize: int) -> int:
    """Bytes that one query and modality read and write: weights, valid steps, the query, two lengths, the context."""
    return itemsize * (ROW + WIDTH * steps + 2 * WIDTH) + 8


def total_bytes(B: int, S: int, Ta: int, Tv: int, itemsize: int) -> int:
    """Bytes of one launch if each is moved once: a modality's queries share weights, a sample's queries steps."""
    return itemsize * (2 * ROW + B * WIDTH * (Ta + Tv + S + 2 * S)) + 8 * B * S


def block_multiplications(steps: int) -> int:
    """Multiply-adds of one query and modality: u, scores and means, value_out, feed-forward."""
    return WIDTH * HEADS * WIDTH + 2 * HEADS * WIDTH * steps + HEADS * WIDTH * WIDTH + 2 * WIDTH * HIDDEN


def textbook_multiplications(steps: int) -> int:
    """The same with keys and values of every step formed."""
    return 2 * WIDTH * WIDTH * (1 + steps) + 2 * WIDTH * steps + 2 * WIDTH * HIDDEN


def table() -> str:
    """Markdown, B = S = 1, both modalities with T steps: computed from data sheets, nothing of it measured."""
    lines = [
        "| device | T | | memory, us | L2 to one SM, us | arithmetic of one SM, us |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for device in DEVICES:
        for steps in (100, 500):
            for name, itemsize in (("fp32", 4), ("fp16", 2)):
                memory = total_bytes(1, 1, steps, steps, itemsize) / device.bandwidth
                path = block_bytes(steps, itemsize) / (L2_TO_SM * device.clock)
                arithmetic = block_multiplications(steps) / (FMA * device.clock)
                times = " | ".join(f"{1e6 * seconds:.2f}" for seconds in (memory, path, arithmetic))
                lines.append(f"| {device.name} | {steps} | {name} | {times} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
