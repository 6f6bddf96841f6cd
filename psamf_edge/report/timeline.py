"""Lays one result out as a picture: score bars over time, the words, and what each modality contributed."""

from __future__ import annotations

from collections.abc import Iterator

from psamf_edge.report.escape import printable
from psamf_edge.report.fit import fit_line, fit_lines, text_width
from psamf_edge.report.picture import Group, Line, Picture, Rect, Shape, Text
from psamf_edge.report.wording import CLOCK_FROM_MS, clock, extent, seconds, signed, verdict
from psamf_edge.result import MODALITIES, SCORE_LIMIT, Result, Segment

WIDTH, HEIGHT = 1200, 548
HEADING_HEIGHT = 66
MARGIN = 24
LEFT, RIGHT = 104, 1136  # the plot; row names stand left of it, the mean right of it
SCORE_ZERO, SCORE_UNIT = 174, 28  # pixels: the line of score 0, and one score unit
SCORE_HALF = 105  # half the score panel: three units and room for the number on a bar of score 3
WORDS_TOP, LINE_HEIGHT, WORD_LINES, WORD_SIZE = 298, 16, 3, 12
WORD_BOX = 120  # pixels: two or three words a line; shorter utterances share their room with neighbours
WORD_GAP = 8  # between the words of neighbours
ROWS_TOP, ROW_HEIGHT, ROW_HALF = 352, 42, 17
AXIS = ROWS_TOP + len(MODALITIES) * ROW_HEIGHT + 6
SMALL = 11
FAINTEST = 0.3  # opacity at confidence 0.5, a coin's: pale, yet still to be seen
SMALLEST_SCALE = 0.5  # contributions below a neutral score are not blown up to look large
TICK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
MOST_TICKS = 14  # 74 pixels a tick: the longest label, 10:00:00, needs 48


class _Time:
    """Milliseconds to pixels. A still image has no duration: its one segment fills the plot."""

    def __init__(self, result: Result) -> None:
        self.span_ms = max([result.duration_ms, *(segment.end_ms for segment in result.segments)])

    def x(self, ms: float) -> float:
        return LEFT + (RIGHT - LEFT) * ms / self.span_ms

    def column(self, segment: Segment) -> tuple[float, float]:
        """Left edge and width of a segment: at least a pixel, with a gap to the next where there is room for one."""
        if self.span_ms == 0:
            return LEFT, RIGHT - LEFT
        left = self.x(segment.start_ms)
        width = self.x(segment.end_ms) - left
        return left, max(width - 2 if width > 8 else width, 1)


def timeline(result: Result) -> Picture:
    """The picture of one result, WIDTH x HEIGHT pixels."""
    time = _Time(result)
    boxes = _word_boxes(result.segments, time)
    limit = contribution_limit(result.segments)
    counts = dict.fromkeys(("positive", "neutral", "negative"), 0)
    for segment in result.segments:
        counts[segment.label] += 1
    return Picture(
        WIDTH,
        HEIGHT,
        title=f"{printable(result.clip)}: {verdict(result.score, result.label)}",
        description=(
            f"Sentiment over time, from -3 to 3: {verdict(result.score, result.label)} on average over "
            f"{extent(len(result.segments), result.duration_ms)}: "
            + ", ".join(f"{count} {label}" for label, count in counts.items())
            + "."
        ),
        background=[
            Rect(0, 0, WIDTH, HEIGHT, "paper"),
            *_heading(result),
            *_score_grid(result),
            *_row_grid(limit),
            *_absences(result.segments, time),
            *_time_axis(time),
            *_legend(),
        ],
        groups=[
            Group(
                _tooltip(segment),
                [
                    *_score_bar(segment, time),
                    *_contribution_bars(segment, time, limit),
                    *_words(segment, time, boxes.get(index)),
                ],
            )
            for index, segment in enumerate(result.segments)
        ],
    )


def _heading(result: Result) -> Iterator[Shape]:
    score = verdict(result.score, result.label)
    room = WIDTH - 3 * MARGIN - text_width(score, 22, bold=True)
    yield Text(MARGIN, 36, fit_line(printable(result.clip), room, 18, bold=True), 18, bold=True)
    yield Text(WIDTH - MARGIN, 37, score, 22, result.label, "end", bold=True)
    model = result.model
    identity = f"{extent(len(result.segments), result.duration_ms)} · {model.name}, {model.precision}, {model.backend}"
    yield Text(MARGIN, 58, fit_line(printable(identity), WIDTH - 2 * MARGIN, 12), 12, "muted")


def _score_grid(result: Result) -> Iterator[Shape]:
    yield Text(MARGIN, SCORE_ZERO + 4, "score", 12, bold=True)
    limit = int(SCORE_LIMIT)
    for score in range(-limit, limit + 1):
        y = SCORE_ZERO - score * SCORE_UNIT
        yield Line(LEFT, y, RIGHT, y, "muted" if score == 0 else "grid")
        yield Text(LEFT - 8, y + 4, f"{score:+d}" if score else "0", SMALL, "muted", "end")
    y = SCORE_ZERO - result.score * SCORE_UNIT
    yield Line(RIGHT, y, RIGHT + 8, y, result.label, 2)
    yield Text(RIGHT + 12, y + 4, "mean", SMALL, "muted")


def _row_grid(limit: float) -> Iterator[Shape]:
    for row, name in enumerate(MODALITIES):
        y = _row_zero(row)
        yield Text(MARGIN, y + 4, name, 12, bold=True)
        yield Line(LEFT, y, RIGHT, y, "grid")
        for end, sign in ((-1, "+"), (1, "-")):
            yield Text(LEFT - 8, y + end * 14 + 4, f"{sign}{limit:.1f}", 10, "muted", "end")


def _absences(segments: list[Segment], time: _Time) -> Iterator[Shape]:
    """A grey band for each run of utterances without the modality, named where there is room."""
    for row, name in enumerate(MODALITIES):
        y = _row_zero(row)
        runs: list[list[float]] = []  # left and right edges
        previous_absent = False
        for segment in segments:
            absent = segment.modalities[name].state == "missing"
            left, width = time.column(segment)
            if absent and previous_absent:
                runs[-1][1] = left + width
            elif absent:
                runs.append([left, left + width])
            previous_absent = absent
        for left, right in runs:
            yield Rect(left, y - ROW_HALF, right - left, 2 * ROW_HALF, "absent")
            if right - left > text_width("missing", SMALL):
                yield Text((left + right) / 2, y + 4, "missing", SMALL, "muted", "middle")


def _time_axis(time: _Time) -> Iterator[Shape]:
    yield Text(MARGIN, AXIS + 18, "time", 12, bold=True)
    yield Line(LEFT, AXIS, RIGHT, AXIS, "muted")
    if time.span_ms == 0:
        yield Text(LEFT, AXIS + 18, "no time axis", SMALL, "muted")
        return
    step_s = next((step for step in TICK_STEPS_S if time.span_ms / 1000 / step <= MOST_TICKS), TICK_STEPS_S[-1])
    for tick in range(int(time.span_ms / 1000 / step_s) + 1):
        at_ms = 1000 * tick * step_s
        if time.span_ms >= CLOCK_FROM_MS:
            label = clock(at_ms)
        else:
            label = f"{at_ms / 1000:.1f} s" if step_s < 1 else f"{at_ms / 1000:.0f} s"
        yield Line(time.x(at_ms), AXIS, time.x(at_ms), AXIS + 5, "muted")
        yield Text(time.x(at_ms), AXIS + 18, label, SMALL, "muted", "middle")


def _legend() -> Iterator[Shape]:
    y = HEIGHT - 14
    x = LEFT
    entries = [
        *((name, Rect(0, 0, 12, 12, name)) for name in ("positive", "neutral", "negative")),
        ("paler: less confident", Rect(0, 0, 12, 12, "positive", FAINTEST)),
        ("outlined: degraded input", Rect(0, 0, 12, 12, "positive", outlined=True)),
        ("missing input", Rect(0, 0, 12, 12, "absent")),
    ]
    for name, swatch in entries:
        yield Rect(x, y - 10, 12, 12, swatch.color, swatch.opacity, swatch.outlined)
        yield Text(x + 18, y, name, SMALL, "muted")
        x += 18 + text_width(name, SMALL) + 14


def _score_bar(segment: Segment, time: _Time) -> Iterator[Shape]:
    left, width = time.column(segment)
    opacity = FAINTEST + (1 - FAINTEST) * (segment.confidence - 0.5) / 0.5
    yield _bar(left, width, SCORE_ZERO, segment.score * SCORE_UNIT, segment.label, opacity)
    y = SCORE_ZERO - segment.score * SCORE_UNIT
    yield Line(left, y, left + width, y, segment.label, 2)
    number = signed(segment.score)
    if text_width(number, 12, bold=True) <= width:
        yield Text(left + width / 2, y - 6 if segment.score >= 0 else y + 15, number, 12, "ink", "middle", bold=True)


def _contribution_bars(segment: Segment, time: _Time, limit: float) -> Iterator[Shape]:
    left, width = time.column(segment)
    for row, name in enumerate(MODALITIES):
        modality = segment.modalities[name]
        if modality.contribution is not None:
            height = modality.contribution / limit * ROW_HALF
            color = "negative" if modality.contribution < 0 else "positive"
            yield _bar(left, width, _row_zero(row), height, color, outlined=modality.state == "degraded")


def _words(segment: Segment, time: _Time, box: tuple[float, float] | None) -> Iterator[Shape]:
    if box is None or not segment.text:
        return
    left, width = time.column(segment)
    box_left, box_width = box
    middle = box_left + box_width / 2
    yield Line(left + width / 2, SCORE_ZERO + SCORE_HALF, middle, WORDS_TOP - 8, "muted")
    lines = fit_lines(printable(segment.text or ""), box_width - WORD_GAP, WORD_SIZE, WORD_LINES)
    for number, line in enumerate(lines):
        yield Text(middle, WORDS_TOP + 4 + number * LINE_HEIGHT, line, WORD_SIZE, "ink", "middle")


def _word_boxes(segments: list[Segment], time: _Time) -> dict[int, tuple[float, float]]:
    """Left edge and width of the words' box for the utterances that get one, by index.

    A long utterance has its own width. The room between the long ones is cut into boxes, and each goes to the strongest
    of the short utterances above it, so that a long clip shows its most telling words.
    """
    columns = [time.column(segment) for segment in segments]
    boxes = {index: column for index, column in enumerate(columns) if column[1] >= WORD_BOX}
    edges = [LEFT, *(edge for left, width in boxes.values() for edge in (left, left + width)), RIGHT]
    free = [
        (start + number * (end - start) / count, (end - start) / count)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        for count in [int((end - start) / WORD_BOX)]
        for number in range(count)
    ]
    for left, width in free:
        above = [
            index
            for index, segment in enumerate(segments)
            if left <= columns[index][0] + columns[index][1] / 2 < left + width and printable(segment.text or "")
        ]
        if above:
            boxes[max(above, key=lambda index: abs(segments[index].score))] = left, width
    return boxes


def contribution_limit(segments: list[Segment]) -> float:
    """The contribution that fills half a row: the largest of the clip, so that the rows compare."""
    sizes = [abs(m.contribution) for s in segments for m in s.modalities.values() if m.contribution is not None]
    return max([SMALLEST_SCALE, *sizes])


def _tooltip(segment: Segment) -> str:
    times = f"{seconds(segment.start_ms)} to {seconds(segment.end_ms)}"
    words = fit_line(printable(segment.text or ""), 2400, WORD_SIZE)  # some 300 characters
    return f"{times}: {verdict(segment.score, segment.label)}, confidence {segment.confidence:.0%}. {words}".strip()


def _row_zero(row: int) -> float:
    return ROWS_TOP + row * ROW_HEIGHT + ROW_HEIGHT / 2


def _bar(
    left: float, width: float, zero: float, height: float, color: str, opacity: float = 1.0, outlined: bool = False
) -> Rect:
    """A bar that grows up from `zero` when `height` is positive and down when it is negative."""
    return Rect(left, zero - max(height, 0), width, abs(height), color, opacity, outlined)
