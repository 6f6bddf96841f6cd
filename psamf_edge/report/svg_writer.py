"""SVG: the timeline as one drawing that any browser shows, the same bytes for the same result."""

from __future__ import annotations

from collections.abc import Sequence

from psamf_edge.report.escape import markup
from psamf_edge.report.picture import PALETTE, Line, Picture, Rect, Shape
from psamf_edge.report.timeline import timeline
from psamf_edge.result import Result

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif"


def write_svg(results: Sequence[Result]) -> str:
    """A stand-alone file. Takes exactly one clip."""
    (result,) = results
    picture = timeline(result)
    size = f'xmlns="http://www.w3.org/2000/svg" width="{picture.width}" height="{picture.height}"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg_element(picture, "timeline", attributes=size)}\n'


def svg_element(picture: Picture, name: str, top: int = 0, attributes: str = "") -> str:
    """The `<svg>` element alone, as HTML embeds it.

    Args:
        picture: what to draw.
        name: unique in its page, for the ids of the labels.
        top: the picture is cut off above this pixel.
        attributes: more attributes of the element.
    """
    lines = [
        f'<svg {attributes} viewBox="0 {top} {picture.width} {picture.height - top}" role="img" font-family="{_FONTS}" '
        f'aria-labelledby="{name}-title {name}-description">',
        f'<title id="{name}-title">{markup(picture.title)}</title>',
        f'<desc id="{name}-description">{markup(picture.description)}</desc>',
        *map(_element, picture.background),
    ]
    for index, group in enumerate(picture.groups):
        lines.append(f'<g data-segment="{index}"><title>{markup(group.title)}</title>')
        lines.extend(map(_element, group.shapes))
        lines.append("</g>")
    lines.append("</svg>")
    return "\n".join(lines)


def _element(shape: Shape) -> str:
    color = f'class="{shape.color}"'
    value = PALETTE[shape.color]
    if isinstance(shape, Rect):
        box = f'x="{_px(shape.x)}" y="{_px(shape.y)}" width="{_px(shape.width)}" height="{_px(shape.height)}"'
        if shape.outlined:
            return f'<rect {color} {box} fill="none" stroke="{value}" stroke-width="1.5"/>'
        opacity = f' fill-opacity="{_px(shape.opacity)}"' if shape.opacity < 1 else ""
        return f'<rect {color} {box} fill="{value}"{opacity}/>'
    if isinstance(shape, Line):
        ends = f'x1="{_px(shape.x1)}" y1="{_px(shape.y1)}" x2="{_px(shape.x2)}" y2="{_px(shape.y2)}"'
        return f'<line {color} {ends} stroke="{value}" stroke-width="{_px(shape.width)}"/>'
    weight = ' font-weight="bold"' if shape.bold else ""
    style = f'font-size="{_px(shape.size)}" text-anchor="{shape.anchor}"{weight}'
    return f'<text {color} x="{_px(shape.x)}" y="{_px(shape.y)}" {style} fill="{value}">{markup(shape.text)}</text>'


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
