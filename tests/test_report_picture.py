"""The timeline, its text fitting, and the svg and png files that are painted from it."""

from __future__ import annotations

import io
import string
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from report_samples import EDGES, HOSTILE_TEXTS, many, still_image, three

from psamf_edge.errors import MissingDependencyError
from psamf_edge.report import render
from psamf_edge.report.fit import fit_line, fit_lines, text_width
from psamf_edge.report.picture import PALETTE, Line, Rect, Text
from psamf_edge.report.timeline import HEIGHT, WIDTH, timeline

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=EDGES.values(), ids=EDGES.keys())
def result(request):
    return request.param


def shapes_of(picture, kind):
    groups = [shape for group in picture.groups for shape in group.shapes]
    return [shape for shape in [*picture.background, *groups] if isinstance(shape, kind)]


def ends(text: Text) -> tuple[float, float]:
    width = text_width(text.text, text.size, text.bold)
    left = text.x - {"start": 0, "middle": width / 2, "end": width}[text.anchor]
    return left, left + width


@pytest.mark.parametrize("bold", [False, True])
def test_text_width_bounds_the_font_from_above(bold):
    font_manager = pytest.importorskip("matplotlib.font_manager", reason="matplotlib is not installed")
    from matplotlib.ft2font import FT2Font, LoadFlags

    weight = "bold" if bold else "normal"
    font = FT2Font(font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight)))
    font.set_size(100, 72)  # 100 units an em
    for character in string.printable.strip() + " —…·äöüßéÀÑ":
        advance = font.load_char(ord(character), flags=LoadFlags.NO_HINTING).linearHoriAdvance / 65536
        assert text_width(character, 100, bold) >= advance, character


@pytest.mark.parametrize("width", [0, 5, 20, 60, 133.7, 1000])
@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "plain words that go on for a while, and then some more of them"])
def test_lines_fit_and_lose_nothing_silently(text, width):
    lines = fit_lines(text, width, 12, limit=3)
    assert len(lines) <= 3
    assert all(text_width(line, 12) <= width for line in lines)
    kept = "".join("".join(lines).split())
    whole = "".join(text.split())
    assert kept == whole or kept.endswith("…") or not lines
    assert whole.startswith(kept.removesuffix("…"))


def test_lines_break_at_spaces():
    assert fit_lines("one two three", text_width("one two", 12) + 1, 12, 3) == ["one two", "three"]
    assert fit_line("one two three", text_width("one two", 12), 12).startswith("one")


def test_everything_is_inside_the_picture(result):
    picture = timeline(result)
    for text in shapes_of(picture, Text):
        left, right = ends(text)
        assert left >= 0
        assert right <= WIDTH
        assert 10 < text.y < HEIGHT
    for rect in shapes_of(picture, Rect):
        assert 0 <= rect.x <= rect.x + rect.width <= WIDTH
        assert 0 <= rect.y <= rect.y + rect.height <= HEIGHT
        assert 0 < rect.opacity <= 1
    assert all(0 <= line.x1 <= line.x2 + WIDTH for line in shapes_of(picture, Line))


def test_no_labels_overlap(result):
    """Texts on one baseline must not touch; baselines are far enough apart for their font sizes."""
    baselines: dict[float, list[Text]] = {}
    for text in shapes_of(timeline(result), Text):
        baselines.setdefault(round(text.y), []).append(text)
    for texts in baselines.values():
        spans = sorted((ends(text), text.text) for text in texts)
        for ((_, right), first), ((left, _), second) in pairwise(spans):
            assert right <= left, (first, second)


def test_no_line_crosses_a_text(result):
    """Checked with the boxes around both; grid lines lie behind the numbers on purpose."""
    shapes = [shape for group in timeline(result).groups for shape in group.shapes]
    texts = [shape for shape in shapes if isinstance(shape, Text)]
    for line in (shape for shape in shapes if isinstance(shape, Line) and shape.y1 != shape.y2):
        for text in texts:
            left, right = ends(text)
            beside = right < min(line.x1, line.x2) or max(line.x1, line.x2) < left
            assert beside or text.y + 0.2 * text.size < line.y1 or line.y2 < text.y - 0.8 * text.size, text


def test_bars_show_the_numbers():
    picture = timeline(three())
    bars = [group.shapes[0] for group in picture.groups]
    zero = bars[0].y + bars[0].height
    unit = bars[1].height / three().segments[1].score
    assert bars[2].y == pytest.approx(zero), "a negative score hangs from the zero line"
    assert bars[2].height == pytest.approx(1.8 * unit)
    assert [bar.color for bar in bars] == ["neutral", "positive", "negative"]
    assert bars[0].opacity < bars[2].opacity < bars[1].opacity, "opacity follows confidence"
    outlined = [shape for shape in picture.groups[0].shapes if isinstance(shape, Rect) and shape.outlined]
    assert len(outlined) == 1, "the degraded voice"


def test_long_clip_quotes_its_strongest_utterances():
    result = many(60)
    quoted = {
        index
        for index, group in enumerate(timeline(result).groups)
        if any(isinstance(shape, Text) and shape.text.startswith("Utterance") for shape in group.shapes)
    }
    assert len(quoted) >= 6
    assert (
        max((i for i, s in enumerate(result.segments) if s.text), key=lambda i: abs(result.segments[i].score)) in quoted
    )


def test_svg_is_xml_with_a_title_and_a_group_for_each_utterance(result):
    root = ET.fromstring(render([result], "svg").encode())
    assert root.tag == SVG + "svg"
    assert (root.get("width"), root.get("height"), root.get("role")) == (str(WIDTH), str(HEIGHT), "img")
    labels = {element.get("id") for element in root}
    assert set(root.get("aria-labelledby").split()) <= labels
    groups = root.findall(f"{SVG}g")
    assert [group.get("data-segment") for group in groups] == [str(i) for i in range(len(result.segments))]
    assert all(group.find(f"{SVG}title").text for group in groups)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "desc", "g", "rect", "line", "text"
    }  # fmt: skip
    assert {element.get("class") for element in root.iter(f"{SVG}rect")} <= PALETTE.keys()


@pytest.mark.parametrize("name", ["three", "hostile", "four hundred"])
def test_png_has_the_size_and_the_colours(name):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow, which comes with matplotlib, is not installed")
    image = image_module.open(io.BytesIO(render([EDGES[name]], "png")))
    assert image.size == (2 * WIDTH, 2 * HEIGHT)
    pixels = np.asarray(image.convert("RGB"))  # (2 * HEIGHT, 2 * WIDTH, 3)
    for role in ("paper", "positive", "negative", "neutral", "absent"):  # the legend shows them all
        color = [int(PALETTE[role][i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == color).all(axis=2).sum() > 100, role


def test_png_ignores_the_users_matplotlib_settings():
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plain = render([still_image()], "png")
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "red", "font.size": 40}):
        assert render([still_image()], "png") == plain


def test_png_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install psamf-edge\[plot\]"):
        render([three()], "png")
