"""PNG: the timeline painted by matplotlib, twice the size of the svg in pixels."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence

from psamf_edge.errors import MissingDependencyError
from psamf_edge.report.picture import PALETTE, Line, Picture, Rect
from psamf_edge.report.timeline import timeline
from psamf_edge.result import Result

PIXEL_RATIO = 2  # sharp on a screen of high density and in print at half a page
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def write_png(results: Sequence[Result]) -> bytes:
    """The bytes of a PNG file. Takes exactly one clip.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    (result,) = results
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingDependencyError(
            "The png format needs matplotlib, which is not installed; "
            "run `pip install psamf-edge[plot]`, or choose svg, which needs nothing."
        ) from error
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with style.context("default"), warnings.catch_warnings():  # not the user's matplotlibrc: it could ask for LaTeX
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # they show as boxes
        return _paint(timeline(result))


def _paint(picture: Picture) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # not pyplot: it would start a window system
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    # One dot per inch 72: points, matplotlib's unit for lines and fonts, are then our pixels.
    figure = Figure(figsize=(picture.width / 72, picture.height / 72), dpi=72 * PIXEL_RATIO)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.set_axis_off()
    shapes = [*picture.background, *(shape for group in picture.groups for shape in group.shapes)]
    for order, shape in enumerate(shapes):
        color = PALETTE[shape.color]
        if isinstance(shape, Rect):
            box = Rectangle((shape.x, shape.y), shape.width, shape.height, color=color, fill=not shape.outlined)
            box.set(alpha=shape.opacity, linewidth=1.5 if shape.outlined else 0, zorder=order)
            axes.add_artist(box)
        elif isinstance(shape, Line):
            ends = (shape.x1, shape.x2), (shape.y1, shape.y2)
            line = Line2D(*ends, color=color, linewidth=shape.width, solid_capstyle="butt", zorder=order)
            axes.add_artist(line)
        else:
            axes.text(
                shape.x,
                shape.y,
                shape.text,
                size=shape.size,
                color=color,
                ha=_ANCHORS[shape.anchor],
                va="baseline",
                weight="bold" if shape.bold else "normal",
                zorder=order,
                parse_math=False,  # a dollar sign is a dollar sign
            )
    file = io.BytesIO()
    canvas.print_png(file, metadata={"Software": None, "Title": picture.title})
    return file.getvalue()
