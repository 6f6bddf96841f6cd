"""Which rows each batch holds. Every source can be stopped after any batch and go on from there in another process.

A source is iterated once for each epoch. `state` and `restore` carry its place in an epoch that is under way; the
generator it draws from is the caller's to keep (see checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psamf_edge.compile.training.state import State

POOL = 50  # batches that are sorted by length together: little padding, and still no fixed neighbours


class LengthBatches:
    """Random batches of row numbers, each of similar lengths so that little is padding. The last, short one of a pool
    is left out.

    Rows are shuffled, sorted within pools of fifty batches, and the batches of each pool shuffled again.

    Args:
        lengths: (N,) of the rows.
        size: rows in a batch.
        rng: the source of all chance; others may draw from it between two batches.
    """

    def __init__(self, lengths: np.ndarray, size: int, rng: np.random.Generator) -> None:
        self.lengths, self.size, self.rng = lengths, size, rng
        self.order: np.ndarray | None = None  # of the epoch under way
        self.start = 0  # of the next pool
        self.waiting: list[np.ndarray] = []  # of the pool under way

    def __len__(self) -> int:
        """Batches in an epoch: the same for every shuffle."""
        whole, rest = divmod(len(self.lengths), POOL * self.size)
        return whole * POOL + rest // self.size

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.order is None:
            self.order, self.start, self.waiting = self.rng.permutation(len(self.lengths)), 0, []
        while self.waiting or self.start < len(self.order):
            if not self.waiting:
                self.waiting = self._pool()
            if self.waiting:
                yield self.waiting.pop(0)
        self.order = None

    def _pool(self) -> list[np.ndarray]:
        rows = self.order[self.start : self.start + POOL * self.size]
        self.start += POOL * self.size
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        batches = [rows[i : i + self.size] for i in range(0, len(rows) - self.size + 1, self.size)]
        self.rng.shuffle(batches)
        return batches

    def state(self) -> State:
        order = None if self.order is None else self.order.tolist()
        return State(values={"order": order, "start": self.start, "waiting": [rows.tolist() for rows in self.waiting]})

    def restore(self, state: State) -> None:
        order = state.values["order"]
        self.order = None if order is None else np.array(order)
        self.start, self.waiting = state.values["start"], [np.array(rows) for rows in state.values["waiting"]]


class DrawnBatches:
    """Batches of rows drawn with replacement, each row as often as its weight says.

    Args:
        weights: (N,), of sum 1.
        size: rows in a batch; an epoch is as many batches as rows make.
        rng: the source of all chance; others may draw from it between two batches.
    """

    def __init__(self, weights: np.ndarray, size: int, rng: np.random.Generator) -> None:
        self.weights, self.size, self.rng = weights, size, rng
        self.given = 0  # batches of the epoch under way

    def __len__(self) -> int:
        return max(1, len(self.weights) // self.size)

    def __iter__(self) -> Iterator[np.ndarray]:
        while self.given < len(self):
            self.given += 1
            yield self.rng.choice(len(self.weights), self.size, p=self.weights)
        self.given = 0

    def state(self) -> State:
        return State(values={"given": self.given})

    def restore(self, state: State) -> None:
        self.given = state.values["given"]
