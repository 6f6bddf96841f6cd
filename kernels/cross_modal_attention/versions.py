"""The versions that lab.py compares, each as a list of launches that a GPU or the CPU shim can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from psamf_edge.kernels.cross_modal_attention import launcher
from psamf_edge.kernels.cross_modal_attention.packing import LAYOUT, WIDTH, pack
from psamf_edge.kernels.cross_modal_attention.validation import Case

LAB = Path(__file__).with_name("lab.cu")
_INPUTS = ("query", "audio", "face", "lengths", "weights", "B", "S", "Ta", "Tv")


@dataclass(frozen=True)
class Sizes:
    """Of a case: batch, queries of a sample, steps of voice and face."""

    B: int
    S: int
    Ta: int
    Tv: int


@dataclass(frozen=True)
class Launch:
    """One kernel. `arguments` name arrays, or sizes by the fields of Sizes."""

    entry: str
    grid: tuple[int, int, int]
    threads: int
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Version:
    """One way to compute the block.

    name, idea: for the table.
    source: the .cu file.
    dtype: of its tensors.
    weights: (2, ...) of a case, in `dtype`, as its kernels read them.
    launches: for given sizes.
    scratch: float32 numbers of each array that the launches hand on, for given sizes.
    """

    name: str
    idea: str
    source: Path
    dtype: DTypeLike
    weights: Callable[[Case], ndarray]
    launches: Callable[[Sizes], list[Launch]]
    scratch: Callable[[Sizes], dict[str, int]]


def textbook_weights(case: Case) -> ndarray:
    """(2, 49984) float32: query, key, value and out as (in, out), each with its bias, then the folded row's end."""
    rows = []
    for state in case.blocks:
        names = [f"attention.{part}.{kind}" for part in ("query", "key", "value", "out") for kind in ("weight", "bias")]
        rest = pack(state)[LAYOUT["norm_weight"][0] :]
        rows.append(np.concatenate([*(state[name].T.ravel() for name in names), rest]))
    return np.stack(rows)


def _textbook(sizes: Sizes) -> list[Launch]:
    grid = (sizes.B, sizes.S, 2)
    longest = max(sizes.Ta, sizes.Tv, 1)  # a grid has at least one block
    return [
        Launch("textbook_keys_values", (longest, sizes.B, 2), 64, (*_INPUTS, "keys_values")),
        Launch("textbook_attend", grid, 256, (*_INPUTS, "keys_values", "means")),
        Launch("textbook_finish", grid, 256, (*_INPUTS, "means", "contexts")),
    ]


def _folded(sizes: Sizes) -> list[Launch]:
    grid = (sizes.B, sizes.S, 2)
    return [
        Launch("folded_query", grid, 128, (*_INPUTS, "u")),
        Launch("folded_attend", grid, 256, (*_INPUTS, "u", "means")),
        Launch("folded_finish", grid, 256, (*_INPUTS, "means", "contexts")),
    ]


def _joined(sizes: Sizes) -> list[Launch]:
    return [Launch("joined", (sizes.B, sizes.S, 2), 256, (*_INPUTS, "contexts"))]


def _shipped(dtype: DTypeLike) -> Callable[[Sizes], list[Launch]]:
    def launches(sizes: Sizes) -> list[Launch]:
        grid, block, _ = launcher.launch_shape(sizes.B, sizes.S, sizes.Ta, sizes.Tv)
        return [Launch(launcher.entry(dtype), grid, block[0], (*_INPUTS, "contexts"))]

    return launches


def _queries(sizes: Sizes) -> int:
    return 2 * sizes.B * sizes.S


VERSIONS = (
    Version(
        "1 textbook",
        "keys and values in memory, three launches",
        LAB,
        np.float32,
        textbook_weights,
        _textbook,
        lambda sizes: {
            "keys_values": 4 * sizes.B * max(sizes.Ta, sizes.Tv, 1) * WIDTH,
            "means": _queries(sizes) * WIDTH,
        },
    ),
    Version(
        "2 folded",
        "no keys, no values, three launches",
        LAB,
        np.float32,
        Case.weights,
        _folded,
        lambda sizes: {"u": _queries(sizes) * 2 * WIDTH, "means": _queries(sizes) * 2 * WIDTH},
    ),
    Version("3 joined", "the same in one launch", LAB, np.float32, Case.weights, _joined, lambda sizes: {}),
    *(
        Version(
            f"4 shipped {short}", "laid out anew", launcher.SOURCE, dtype, Case.weights, _shipped(dtype), lambda s: {}
        )
        for short, dtype in (("fp32", np.float32), ("fp16", np.float16))
    ),
)


def entries(source: Path) -> tuple[str, ...]:
    """Names of all kernels that the versions launch from one file."""
    one = Sizes(1, 1, 1, 1)
    names = [launch.entry for version in VERSIONS if version.source == source for launch in version.launches(one)]
    return tuple(dict.fromkeys(names))


def arguments(launch: Launch, sizes: Sizes, arrays: Mapping[str, object]) -> list:
    """A launch's arguments: from `arrays` by name, or a size as an int."""
    return [arrays[name] if name in arrays else getattr(sizes, name) for name in launch.arguments]
