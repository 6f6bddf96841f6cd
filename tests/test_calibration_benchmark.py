"""The rivals of benchmarks/calibration.py do what their names say, and its tables hold what was measured."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("torch")

from benchmarks import calibration as bench
from benchmarks.tables import calibration, calibration_in_short
from psamf_edge.compile.quantisation.formats import INT8
from psamf_edge.compile.quantisation.ranges import Seen, choose
from psamf_edge.compile.quantisation.smoothing import smoothing_scales

K, ROWS = 16, 200


@pytest.fixture(scope="module")
def seen() -> Seen:
    rng = np.random.default_rng(0)
    rows = rng.standard_t(3, (ROWS, K)).astype(np.float32)  # heavy tails, where the ways differ
    rows[:, 5] *= 10
    peak = np.abs(rows).max(axis=0)
    return Seen(("product",), (rng.standard_normal((K, 4)).astype(np.float32),), peak, peak, rows)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_the_least_squared_error_is_that_of_a_search_in_float64(seen: Seen, alpha: float | None) -> None:
    ours = bench.rival(bench._least_squares, alpha)(seen, INT8)
    scales = np.ones(K)
    if alpha is not None:
        scales = smoothing_scales(seen.peak, np.abs(seen.matrices[0]).max(axis=1), alpha).astype(np.float64)
    rows = seen.rows.astype(np.float64) / scales
    candidates = [np.abs(rows).max() * i / bench.RANGES for i in range(1, bench.RANGES + 1)]
    errors = [sum(np.square(np.clip(np.rint(row / (c / 127)), -128, 127) * (c / 127) - row).sum() for row in rows)
              for c in candidates]  # fmt: skip
    assert 0 < int(np.argmin(errors)) < bench.RANGES - 1  # neither end: there is something to find
    assert ours.greatest == pytest.approx(candidates[int(np.argmin(errors))], rel=1e-5)  # float32


def test_the_other_rivals(seen: Seen) -> None:
    ranges = {way.ranges: way.choose(seen, INT8).greatest for way in bench.ways() if way.smoothing == "none"}
    sizes = np.sort(np.abs(seen.rows).ravel())
    assert ranges["greatest value"] == sizes[-1]
    # of 3200 values; the row of the peaks that is among them moves the place by a few
    assert sizes[int(0.99 * len(sizes))] < ranges["percentile 99.9"] <= ranges["percentile 99.99"] <= sizes[-1]
    assert [way.precision for way in bench.ways() if way.choose is choose] == ["int8"] * 5 + ["fp8"]


def test_tables_hold_every_row_and_the_nearest_of_each_rival() -> None:
    def row(smoothing: str, gap: float, ranges: str = "percentile 99.9") -> dict:
        figures = {"n": 229, "gap": gap, "worst": 0.5, "mae": 0.73, "acc2_non0": 0.856}
        told = {"precision": "int8", "ranges": ranges, "smoothing": smoothing, "products": "trunk", "data": "sentences"}
        return {**told, "valid": figures, "composed": figures, "within_bounds": gap < 0.05}

    rows = [row("none", 0.06), row("alpha 0.5", 0.04), row("alpha 0.7", 0.03), row("by activation", 0.02, "products")]
    record = {"fp32": {"n": 229, "mae": 0.7325, "acc2_non0": 0.8565}, "rows": rows}
    whole, short = (table(record).splitlines() for table in (calibration, calibration_in_short))
    assert (len(whole), len(short)) == (2 + 1 + 4, 2 + 1 + 3)
    assert {line.count("|") for line in whole + short} == {13}
    assert [line.split(" | ")[2] for line in short[3:]] == ["none", "alpha 0.7", "by activation"]
    assert short[-1].endswith("| 0.730 | 0.856 | 0.020 | 0.500 | 0.020 | 0.500 | yes |")
