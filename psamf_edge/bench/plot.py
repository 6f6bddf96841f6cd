"""A drawing of a run: stages as bars, every round in its order, and the model's time over the utterance's length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from psamf_edge.bench.record import Record
from psamf_edge.bench.series import Series, summary
from psamf_edge.bench.stages import CLIP, MODEL, WHOLE
from psamf_edge.bench.tables import figure, kind_of
from psamf_edge.report.escape import printable
from psamf_edge.report.fit import fit_line
from psamf_edge.report.picture import Line, Picture, Rect, Shape, Text
from psamf_edge.report.svg_writer import svg_element

WIDTH, MARGIN = 900, 24
LEFT = 230  # of the axes; names stand before
RIGHT = WIDTH - 90  # figures stand behind the bars
BAR, SMALL = 14, 11
PANEL = 200  # height of a panel with two axes
GAP = 64  # between panels: a title and the labels of the axis above
COLORS = ("positive", "negative", "neutral", "ink")  # of the models in order; a fifth has the first again
TICKS = 5  # about so many along an axis


def draw(record: Record) -> str:
    """A stand-alone SVG file, the same bytes for the same record."""
    picture = chart(record)
    size = f'xmlns="http://www.w3.org/2000/svg" width="{picture.width}" height="{picture.height}"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg_element(picture, "bench", attributes=size)}\n'


def chart(record: Record) -> Picture:
    """The panels below each other; one that has nothing to show is left out."""
    colors = {label: COLORS[number % len(COLORS)] for number, label in enumerate(record.models)}
    title = f"{record.clip.get('name')}, {record.taken[:10]}, {record.machine.get('cpu')}"
    shapes: list[Shape] = [Text(MARGIN, 32, fit_line(printable(title), WIDTH - 2 * MARGIN, 14, True), 14, bold=True)]
    shapes += _legend(record, colors)
    top = 84
    stages = [each for each in record.series if each.group == CLIP]
    rounds = [each for each in stages if each.name == WHOLE and len(each.samples) > 1]
    lengths = _curves([each for each in record.series if kind_of(each) == MODEL and each.name == MODEL])
    if stages:
        shapes += _bars(stages, colors, top)
        top += BAR * len(stages) + GAP
    if rounds:
        lines = {each.model: [(float(n + 1), ms) for n, ms in enumerate(each.samples)] for each in rounds}
        shapes += _axes("each round of the clip, ms", "", lines, colors, top)
        top += PANEL + GAP
    if lengths:
        shapes += _axes("the model by the length of the utterance, p50 in ms", "s", lengths, colors, top)
        top += PANEL + GAP
    height = top - GAP // 3
    return Picture(
        width=WIDTH,
        height=height,
        title=printable(f"psamf-edge bench: {title}"),
        description="Time by stage as bars to p50 with a line to p95; time of each round; time by utterance length.",
        background=[Rect(0, 0, WIDTH, height, "paper"), *shapes],
        groups=[],
    )


def _legend(record: Record, colors: dict[str, str]) -> Iterator[Shape]:
    room = (WIDTH - 2 * MARGIN) / max(1, len(colors))
    for number, (label, color) in enumerate(colors.items()):
        x, model = MARGIN + number * room, record.models[label]
        words = f"{label}: {model.get('precision')}, {model.get('backend')}"
        yield Rect(x, 44, 12, 12, color)
        yield Text(x + 18, 54, fit_line(printable(words), room - 24, SMALL), SMALL, "muted")


def _bars(stages: Sequence[Series], colors: dict[str, str], top: float) -> Iterator[Shape]:
    """A bar to p50 and a line to p95 for each stage, the models of one stage below each other."""
    names = list(dict.fromkeys(each.name for each in stages))
    figures = {each.key: summary(each.samples) for each in stages}
    longest = max(value["p95"] for value in figures.values()) or 1.0
    scale = (RIGHT - LEFT) / longest
    yield Text(MARGIN, top - 8, "stages of the clip, ms: bar to p50, line to p95", 12, bold=True)
    y = top
    for name in names:
        for position, each in enumerate(one for one in stages if one.name == name):
            value = figures[each.key]
            if position == 0:
                yield Text(
                    LEFT - 8, y + BAR - 3, fit_line(printable(name), LEFT - MARGIN - 8, SMALL), SMALL, "ink", "end"
                )
            yield Rect(LEFT, y + 2, max(0.5, value["p50"] * scale), BAR - 4, colors[each.model], 0.8)
            yield Line(LEFT, y + BAR / 2, LEFT + value["p95"] * scale, y + BAR / 2, "muted", 1)
            yield Text(LEFT + value["p95"] * scale + 6, y + BAR - 3, figure(value["p50"]), SMALL, "muted")
            y += BAR


def _curves(series: Sequence[Series]) -> dict[str, list[tuple[float, float]]]:
    """Seconds and p50 of each model: groups read "model, 50 tokens and 10 s"."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for each in series:
        seconds = float(each.group.split()[-2])
        curves.setdefault(each.model, []).append((seconds, summary(each.samples)["p50"]))
    return {model: sorted(points) for model, points in curves.items()}


def _axes(
    title: str, unit: str, lines: dict[str, list[tuple[float, float]]], colors: dict[str, str], top: float
) -> Iterator[Shape]:
    """Points joined by lines, both axes linear and from zero, so that no difference looks larger than it is."""
    points = [point for line in lines.values() for point in line]
    x_step, x_end = ticks(max(x for x, _ in points))
    y_step, y_end = ticks(max(y for _, y in points))
    x_scale, y_scale, floor = (RIGHT - LEFT) / x_end, PANEL / y_end, top + PANEL
    yield Text(MARGIN, top - 16, title, 12, bold=True)
    for tick in range(round(y_end / y_step) + 1):
        y = floor - tick * y_step * y_scale
        yield Line(LEFT, y, RIGHT, y, "muted" if tick == 0 else "grid")
        yield Text(LEFT - 8, y + 4, figure(tick * y_step), SMALL, "muted", "end")
    for tick in range(round(x_end / x_step) + 1):
        x = LEFT + tick * x_step * x_scale
        yield Line(x, floor, x, floor + 4, "muted")
        yield Text(x, floor + 17, f"{figure(tick * x_step)} {unit}".rstrip(), SMALL, "muted", "middle")
    for model, line in lines.items():
        places = [(LEFT + x * x_scale, floor - y * y_scale) for x, y in line]
        for (x1, y1), (x2, y2) in pairwise(places):
            yield Line(x1, y1, x2, y2, colors[model], 1.5)
        for x, y in places:
            yield Rect(x - 2, y - 2, 4, 4, colors[model])


def ticks(largest: float) -> tuple[float, float]:
    """A step of 1, 2 or 5 times a power of ten, and the first multiple of it that is not below the largest value."""
    if largest <= 0:
        return 1.0, 1.0
    rough = largest / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return step, step * math.ceil(largest / step * (1 - 1e-9))
