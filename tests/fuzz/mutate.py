"""Inputs for the targets: files of the corpus with a few changes, or bytes out of nothing."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.targets import Target

MAX_CHANGES = 8
MAX_BYTES = 1 << 14  # longer inputs find no more and take longer


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """What to give a target."""
    words = st.sampled_from(target.words) if target.words else st.binary(max_size=8)
    change = st.tuples(
        st.sampled_from(["flip", "cut", "insert", "replace", "repeat", "drop"]),
        st.integers(0, MAX_BYTES),
        st.integers(1, 64),
        st.one_of(words, st.binary(min_size=1, max_size=8)),
    )
    seeds = st.sampled_from(target.corpus)
    changed = st.builds(_changed, seeds, st.lists(change, max_size=MAX_CHANGES))
    spliced = st.builds(
        lambda a, b, at: a[: at % (len(a) + 1)] + b[at % (len(b) + 1) :], seeds, seeds, st.integers(0, 1 << 14)
    )
    built = st.lists(st.one_of(words, st.binary(max_size=8)), max_size=40).map(b"".join)
    return st.one_of(changed, spliced, built)


def _changed(data: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    for how, place, size, word in changes:
        at = place % (len(data) + 1)
        match how:
            case "flip":
                bit = place % 8
                data = data[:at] + bytes(byte ^ 1 << bit for byte in data[at : at + 1]) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "insert":
                data = data[:at] + word + data[at:]
            case "replace":
                data = data[:at] + word + data[at + len(word) :]
            case "repeat":
                data = data[:at] + data[at : at + size] * 8 + data[at + size :]
            case "drop":
                data = data[:at] + data[at + size :]
    return data[:MAX_BYTES]
