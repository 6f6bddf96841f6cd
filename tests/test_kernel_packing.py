"""Packed weights and launch shapes of the cross-modal attention kernel."""

from math import erf

import numpy as np
import pytest

from psamf_edge.errors import UsageError
from psamf_edge.kernels.cross_modal_attention import launcher
from psamf_edge.kernels.cross_modal_attention.packing import LAYOUT, ROW, fields, pack
from psamf_edge.kernels.cross_modal_attention.reference import cross_modal_attention
from psamf_edge.kernels.cross_modal_attention.validation import draw_block


def folded(query, memory, row):
    """The block from the packed fields, in float64."""
    w = {name: value.astype(np.float64) for name, value in fields(row).items()}

    def norm(x, name):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}_weight"] + w[f"{name}_bias"]

    u = query @ w["key_query"] + w["key_query_bias"]  # (128,)
    means = []
    for head in np.split(u, 2):
        share = np.exp(memory @ head - (memory @ head).max())
        means.append(share / share.sum() @ memory)
    x = norm(query + np.concatenate(means) @ w["value_out"] + w["value_out_bias"], "norm")
    hidden = x @ w["up"] + w["up_bias"]
    hidden = 0.5 * hidden * (1 + np.array([erf(value / np.sqrt(2)) for value in hidden]))
    return norm(x + hidden @ w["down"] + w["down_bias"], "output_norm")


def test_packed_weights_compute_the_same_block():
    rng = np.random.default_rng(0)
    state, query, memory = draw_block(rng), rng.normal(size=64), rng.normal(size=(50, 64))
    # the row is rounded to float32 once, everything else is float64: a few units of 6e-8
    assert np.allclose(folded(query, memory, pack(state)), cross_modal_attention(query, memory, state), atol=2e-6)


def test_the_layout_is_the_kernels():
    assert ROW == 49920
    assert LAYOUT["key_query"] == (0, (64, 128))
    assert [at % 64 for at, _ in LAYOUT.values()] == [0] * len(LAYOUT)  # every field starts a line of L2
    names = list(LAYOUT)
    for name, after in zip(names, [*names[1:], None], strict=True):
        at, shape = LAYOUT[name]
        assert at + np.prod(shape) == (LAYOUT[after][0] if after else ROW)


def test_fields_are_views():
    row = np.zeros(ROW, np.float32)
    fields(row)["up"][63, 255] = 1.0
    assert row[LAYOUT["up"][0] + 64 * 256 - 1] == 1.0
    with pytest.raises(UsageError, match=r"\(49920,\)"):
        fields(row[1:])


def test_another_block_is_refused():
    state = draw_block(np.random.default_rng(1))
    with pytest.raises(UsageError, match="width 64 with 2 heads"):
        pack(state, heads=4)
    with pytest.raises(UsageError, match=r"norm\.weight"):
        pack({name: value for name, value in state.items() if name != "norm.weight"})
    with pytest.raises(UsageError, match="not the weights"):
        pack({**state, "attention.out.weight": np.zeros((64, 63))})
    with pytest.raises(UsageError, match=r"up \(64, 128\)"):
        pack({**state, "feed_forward.0.weight": np.zeros((128, 64))})


def test_launch_shapes():
    assert launcher.launch_shape(3, 4, 500, 0) == ((3, 4, 2), (256, 1, 1), 0)
    for sizes in ((0, 1, 1, 1), (1, 0, 1, 1), (1, 65536, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1)):
        with pytest.raises(UsageError, match="B >= 1"):
            launcher.launch_shape(*sizes)


def test_entries_are_in_the_source():
    text = launcher.SOURCE.read_text()
    assert launcher.entry(np.float32).endswith("_f32")
    assert launcher.entry("float16").endswith("_f16")
    assert all(f"{name}(" in text for name in launcher.ENTRIES.values())
    with pytest.raises(UsageError, match="not in int8"):
        launcher.entry(np.int8)
