"""The voice or face features of many clips in one padded array, and what is real in it.

Files differ in where they are padded, so the values decide: PSA-MF's loader takes the rows at the end, MMSA-FET writes
them at the start. A row of zeros at an edge is padding; rows of zeros inside a clip are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StreamReport:
    """What was found in one stream over all splits of a file.

    size: d. longest: of the clips, in steps. padding: "front", "end" or "none".
    front_votes, end_votes: clips that spoke for each side; the majority counts.
    lengths: "declared" in the file, or "found" from the padding.
    minus_inf, plus_inf, nan: values that were set to 0, which is what MMSA's loader does with them.
    empty: clips that hold nothing but zeros; they have no rows.
    outside: clips with values outside the length that the file declares; the length was believed.
    """

    size: int
    longest: int
    padding: str
    front_votes: int
    end_votes: int
    lengths: str
    minus_inf: int
    plus_inf: int
    nan: int
    empty: int
    outside: int


def read_streams(
    arrays: list[np.ndarray], lengths: list[np.ndarray] | None
) -> tuple[list[list[np.ndarray]], StreamReport]:
    """Cut one stream of each split out of its padding.

    Args:
        arrays: of each split, (N, T, d), numeric; N and T may differ.
        lengths: of each split, (N,) in [0, T], or None if the file declares none.

    Returns:
        of each split, the rows (T_i, d) float32 of each clip, finite; and the report.
    """
    extents = [_extents(array) for array in arrays]
    front = end = 0
    for index, array in enumerate(arrays):
        first, stop = extents[index].T
        steps = array.shape[1]
        if lengths is None:
            fits_front, fits_end = first > steps - stop, first < steps - stop
        else:
            fits_front, fits_end = first >= steps - lengths[index], stop <= lengths[index]
        front += int((fits_front & ~fits_end).sum())
        end += int((fits_end & ~fits_front).sum())
    at_front = front > end
    counts = dict.fromkeys(("minus_inf", "plus_inf", "nan", "empty", "outside"), 0)
    splits = []
    for index, array in enumerate(arrays):
        clips, steps = [], array.shape[1]
        for clip, (first, stop) in zip(array, extents[index], strict=True):
            length = (steps - first if at_front else stop) if lengths is None else lengths[index][len(clips)]
            begin, finish = (steps - length, steps) if at_front else (0, length)
            counts["outside"] += int((first < begin or stop > finish) and stop > 0)
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes an infinity, and is counted as one
                values = clip[begin:finish].astype(np.float32)  # (T_i, d)
            counts["minus_inf"] += int(np.isneginf(values).sum())
            counts["plus_inf"] += int(np.isposinf(values).sum())
            counts["nan"] += int(np.isnan(values).sum())
            values[~np.isfinite(values)] = 0.0
            empty = not values.any()
            counts["empty"] += empty
            clips.append(values[:0] if empty else values)
        splits.append(clips)
    longest = max((len(clip) for clips in splits for clip in clips), default=0)
    padding = "front" if at_front else "end" if end else "none"
    declared = "found" if lengths is None else "declared"
    report = StreamReport(arrays[0].shape[2], longest, padding, front, end, declared, **counts)
    return splits, report


def _extents(array: np.ndarray) -> np.ndarray:
    """Of each clip of (N, T, d), the first row with a value but 0 and the one after the last: (N, 2). None: (T, 0)."""
    steps = array.shape[1]
    extents = np.empty((len(array), 2), np.int64)
    for index, clip in enumerate(array):  # one by one: the whole file need not fit into memory
        used = np.flatnonzero((clip != 0).any(axis=1))  # NaN and infinities are not padding
        extents[index] = (used[0], used[-1] + 1) if len(used) else (steps, 0)
    return extents
