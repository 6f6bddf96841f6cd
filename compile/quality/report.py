"""The comparison as a page: one HTML file that needs nothing else, with a policy that admits only its own style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from psamf_edge.compile.quality.bounds import Bounds
from psamf_edge.compile.quality.check_set import Sample
from psamf_edge.compile.quality.data_stage import DataRecord
from psamf_edge.compile.quality.gate import Judgement
from psamf_edge.compile.quality.plan_scorer import EVALUATED_BY
from psamf_edge.compile.quality.sensitivity import Blame
from psamf_edge.report.escape import markup
from psamf_edge.report.html_assets import STYLE
from psamf_edge.report.html_page import html_page
from psamf_edge.result import SCORE_LIMIT

WORST_SHOWN = 25  # samples in the table: whoever wants all has `psamf-edge evaluate --predictions`
LAYERS_SHOWN = 60
Cell = str | float | int | None


def write_report(
    name: str,
    precision: str,
    target: str,
    data: DataRecord,
    bounds: Bounds,
    samples: Sequence[Sample],
    first: Judgement,
    last: Judgement,
    found: Sequence[Blame],
    kept: Sequence[Blame],
    higher: str,
) -> str:
    """The page.

    Args:
        first: the judgement of the whole model in the lower precision.
        last: the judgement of what was written or refused; `first` itself where no layers were kept.
        found: what the search for layers gave; empty where it was not needed.
        kept: the layers that are in the precision `higher`.
    """
    title = markup(f"{name}: {precision} for {target} against fp32")
    verdict = "within its bounds" if not last.broken else "refused: nothing was written"
    sections = [
        f'<p class="verdict"><strong class="{"negative" if last.broken else "positive"}">{verdict}</strong></p>',
        *(f"<p>{markup(sentence[0].upper() + sentence[1:])}.</p>" for sentence in last.broken),
        _facts(data, bounds),
        "<h2>Difference to float32</h2>",
        _figures(first, last, kept, higher),
        _scatter(last.exact, last.lowered),
        "<h2>Samples that differ most</h2>",
        _samples(samples, last),
    ]
    if kept:
        sections += [f"<h2>Kept in {markup(higher)}</h2>", _layers(kept)]
    if found:
        sections += [
            "<h2>Layers to blame</h2>",
            "<p>Each lowered alone, everything else in float32. A row without a layer is a whole segment.</p>",
            _layers(found[:LAYERS_SHOWN]),
        ]
    return html_page(title, STYLE, [f"<h1>{title}</h1>", *sections])


def _facts(data: DataRecord, bounds: Bounds) -> str:
    facts = {
        "data": f"{data.name}, {data.n} samples, {data.labelled} with a label{data.left_out}",
        "sha256": data.sha256,
        "evaluated by": EVALUATED_BY,
        "bounds": f"mean difference {bounds.gap:g}, worst {bounds.worst:g}; against labels, MAE may rise by"
        f" {bounds.mae:g} and Acc-2 fall by {bounds.acc2:g}",
    }
    items = "".join(f"<dt>{markup(name)}</dt><dd>{markup(value)}</dd>" for name, value in facts.items())
    return f"<dl>{items}</dl>"


def _figures(first: Judgement, last: Judgement, kept: Sequence[Blame], higher: str) -> str:
    columns = {"all lowered": first} | ({f"{len(kept)} layers in {higher}": last} if kept else {})
    rows: list[list[Cell]] = [
        ["mean difference", *(judged.comparison.gap for judged in columns.values())],
        ["correlation", *(judged.comparison.corr for judged in columns.values())],
        ["worst difference", *(judged.comparison.worst for judged in columns.values())],
        ["worst sample", *(judged.comparison.worst_sample for judged in columns.values())],
    ]
    tables = [judged.comparison.against_labels for judged in columns.values()]
    if exact := next((table["fp32"] for table in tables if table), None):
        for row in rows:
            row.insert(1, None)
        rows += [[n, value, *(t and t["lowered"][n] for t in tables)] for n, value in exact.items()]
        return _table(["", "fp32", *columns], rows)
    return _table(["", *columns], rows)


def _samples(samples: Sequence[Sample], judged: Judgement) -> str:
    gaps = np.where(np.isfinite(judged.lowered), np.abs(judged.lowered - judged.exact), np.inf)  # (N,)
    order = np.argsort(-gaps, kind="stable")[:WORST_SHOWN]
    rows = [
        [samples[i].name, samples[i].label, *(float(side[i]) for side in (judged.exact, judged.lowered, gaps))]
        for i in order
    ]
    return _table(["sample", "label", "fp32", "lowered", "difference"], rows)


def _layers(blames: Iterable[Blame]) -> str:
    rows = [[blame.part, blame.layer or "", len(blame.nodes), blame.gap, blame.worst] for blame in blames]
    return _table(["segment", "layer", "nodes", "mean difference", "worst"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    rows = list(rows)
    numeric = [any(isinstance(row[column], (int, float)) for row in rows) for column in range(len(heads))]
    head = "".join(
        f'<th scope="col"{" class=number" if is_number else ""}>{markup(name)}</th>'
        for name, is_number in zip(heads, numeric, strict=True)
    )
    body = "\n".join(f"<tr>{''.join(map(_cell, row, numeric))}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cell(value: Cell, among_numbers: bool) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, str):
        return f"<td{' class=number' if among_numbers else ''}>{markup(value)}</td>"
    shown = f"{value}" if isinstance(value, int) else f"{value:.5f}" if np.isfinite(value) else "no finite score"
    return f'<td class="number">{shown}</td>'


def _scatter(exact: np.ndarray, lowered: np.ndarray) -> str:
    """A point for each sample: its score in float32 to the right, in the lower precision upwards."""
    side, shown = 2 * SCORE_LIMIT, np.isfinite(lowered)
    points = "".join(
        f'<circle cx="{x:.3f}" cy="{-y:.3f}" r="0.04" fill="#0072b2" fill-opacity="0.6"/>'
        for x, y in zip(exact[shown], lowered[shown], strict=True)
    )
    lines = "".join(
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#8a939d" stroke-width="0.01"/>'
        for x1, y1, x2, y2 in ((-3, 3, 3, -3), (-3, 0, 3, 0), (0, -3, 0, 3))
    )
    label = "Each sample: its score in float32 to the right, lowered upwards; on the diagonal there is no difference"
    box = f"{-SCORE_LIMIT} {-SCORE_LIMIT} {side} {side}"
    drawing = f'<svg viewBox="{box}" width="420" height="420" role="img" aria-label="{label}">{lines}{points}</svg>'
    return f"{drawing}\n<p>{label}.</p>"
