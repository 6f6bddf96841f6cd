"""HTML: one file that needs nothing else, with the timeline, a table of utterances and how to read them.

A content security policy admits exactly the style and the script of this file, by their hashes, and no other resource.
"""

from __future__ import annotations

from collections.abc import Sequence

from psamf_edge.report.escape import markup
from psamf_edge.report.html_assets import GUIDE, SCRIPT, STYLE
from psamf_edge.report.html_page import html_page
from psamf_edge.report.svg_writer import svg_element
from psamf_edge.report.timeline import HEADING_HEIGHT, contribution_limit, timeline
from psamf_edge.report.wording import counted, extent, seconds, signed, verdict
from psamf_edge.result import MODALITIES, ModalityReport, Result, Segment


def write_html(results: Sequence[Result]) -> str:
    """A page with a section for each clip."""
    subject = results[0].clip if len(results) == 1 else counted(len(results), "clip")
    title = markup(f"Sentiment of {subject}")
    body = [
        "<h1>Sentiment report</h1>",
        _contents(results),
        *(_clip(result, f"clip-{number}") for number, result in enumerate(results, start=1)),
        GUIDE,
    ]
    return html_page(title, STYLE, body, SCRIPT)


def _contents(results: Sequence[Result]) -> str:
    if len(results) == 1:
        return ""
    items = (
        f'<li><a href="#clip-{number}">{markup(result.clip)}</a>: '
        f'<span class="{markup(result.label)}">{markup(verdict(result.score, result.label))}</span></li>'
        for number, result in enumerate(results, start=1)
    )
    return f"<ol>{''.join(items)}</ol>"


def _clip(result: Result, name: str) -> str:
    picture = svg_element(timeline(result), name, top=HEADING_HEIGHT)  # the heading is said in HTML
    size = extent(len(result.segments), result.duration_ms)
    return "\n".join(
        [
            f'<section class="clip" id="{name}">',
            f"<h2>{markup(result.clip)}</h2>",
            f'<p class="verdict"><strong class="{markup(result.label)}">'
            f"{markup(verdict(result.score, result.label))}</strong> {size}</p>",
            f'<div class="wide">{picture}</div>',
            _warnings(result),
            _table(result),
            '<div class="columns">',
            _facts("Inputs", {name: _modality_summary(result, name) for name in MODALITIES}),
            _facts("Model and clip", _identity(result)),
            _facts("Time taken", {stage: f"{ms:.1f} ms" for stage, ms in result.timing_ms.items()}),
            "</div>",
            "</section>",
        ]
    )


def _warnings(result: Result) -> str:
    if not result.warnings:
        return ""
    items = "".join(f"<li>{markup(warning)}</li>" for warning in result.warnings)
    return f"<h3>Warnings</h3><ul>{items}</ul>"


def _table(result: Result) -> str:
    limit = contribution_limit(result.segments)
    heads = "".join(f'<th scope="col" class="number">{name}</th>' for name in MODALITIES)
    rows = "\n".join(_row(index, segment, limit) for index, segment in enumerate(result.segments))
    return (
        '<h3>Utterances</h3>\n<div class="wide"><table>\n<thead><tr><th scope="col" class="number">from</th>'
        '<th scope="col" class="number">to</th><th scope="col">words</th><th scope="col" class="number">score</th>'
        f'<th scope="col" class="number">confidence</th>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )


def _row(index: int, segment: Segment, limit: float) -> str:
    cells = "".join(_contribution(segment.modalities[name], limit) for name in MODALITIES)
    return (
        f'<tr tabindex="0" data-segment="{index}"><td class="number">{seconds(segment.start_ms)}</td>'
        f'<td class="number">{seconds(segment.end_ms)}</td><td class="said">{markup(segment.text or "")}</td>'
        f'<td class="number {markup(segment.label)}">{markup(verdict(segment.score, segment.label))}</td>'
        f'<td class="number">{segment.confidence:.0%}</td>{cells}</tr>'
    )


def _contribution(modality: ModalityReport, limit: float) -> str:
    state = "" if modality.state == "present" else f"{markup(modality.state)} "
    if modality.contribution is None:
        return f'<td class="number neutral">{state}</td>'
    share = modality.contribution / limit  # in [-1, 1]
    sign = "negative" if share < 0 else "positive"
    bar = (
        f'<svg class="spark {sign}" viewBox="-1 0 2 1" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect x="{min(share, 0):.3f}" y="0" width="{abs(share):.3f}" height="1"/></svg>'
    )
    return f'<td class="number">{state}{signed(modality.contribution)}{bar}</td>'


def _modality_summary(result: Result, name: str) -> str:
    """The states of one modality and its mean contribution, weighted by duration like the score of the clip."""
    reports = [(segment.modalities[name], segment.end_ms - segment.start_ms) for segment in result.segments]
    given = [(report.contribution, ms) for report, ms in reports if report.contribution is not None]
    if not given:
        return "missing throughout"
    whole = sum(ms for _, ms in given)
    mean = sum(c * ms for c, ms in given) / whole if whole else sum(c for c, _ in given) / len(given)
    degraded = sum(report.state == "degraded" for report, _ in reports)
    said = f"mean contribution {signed(mean)}, in {len(given)} of {counted(len(reports), 'utterance')}"
    return f"{said}, {degraded} degraded" if degraded else said


def _identity(result: Result) -> dict[str, str]:
    model = result.model
    return {
        "name": model.name,
        "precision": model.precision,
        "backend": model.backend,
        "manifest": f"sha256 {model.manifest_sha256}",
        "clip": f"sha256 {result.sha256}",
    }


def _facts(heading: str, facts: dict[str, str]) -> str:
    items = "".join(f"<dt>{markup(name)}</dt><dd>{markup(value)}</dd>" for name, value in facts.items())
    return f"<div><h3>{heading}</h3><dl>{items}</dl></div>" if facts else ""
