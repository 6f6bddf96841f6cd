"""The students' accuracy against latency and size, as a picture: results/students.svg."""

from __future__ import annotations

import io
from pathlib import Path

from benchmarks.reliability import BLUE, GREY, compact

ORANGE = "#c05621"
COLOURS = {"int8": BLUE, "fp32": ORANGE}
PANELS = (("latency", "median latency of 10 s, one thread (ms)"), ("size", "bundle (MB)"))


def points_of(rows: list[dict], corpus: str, precision: str) -> list[dict[str, float]]:
    """Size, latency, error and its deviation of each student that was measured and timed, the smallest first."""
    points = []
    for row in rows:
        values = row.get("bundles", {}).get(precision)
        if values and values.get("latency_ms") and values["metrics"].get(corpus, {}).get("mae"):
            mae = values["metrics"][corpus]["mae"]
            points.append({
                "blocks": row["settings"]["text_blocks"], "size": values["size_mb"],
                "latency": values["latency_ms"]["p50"], "mae": mae["mean"], "sd": mae["sd"] or 0.0,
            })  # fmt: skip
    return sorted(points, key=lambda point: point["blocks"])


def plot(rows: list[dict], path: Path) -> bool:
    """One line of panels a corpus. False, and no file: nothing is measured yet.

    The same bytes for the same numbers and version of matplotlib.

    Args:
        rows: the students' table of one choice of corpora.
    """
    corpora = list(dict.fromkeys(c for row in rows for b in row.get("bundles", {}).values() for c in b["metrics"]))
    corpora = [c for c in corpora if any(points_of(rows, c, precision) for precision in COLOURS)]
    if not corpora:
        return False
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    style = {"svg.fonttype": "none", "svg.hashsalt": "students", "font.size": 9, "font.sans-serif": ["DejaVu Sans"]}
    with plt.rc_context(style):
        figure, axes = plt.subplots(
            len(corpora), 2, figsize=(7.2, 0.5 + 2.5 * len(corpora)), sharex="col", sharey="row", squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for corpus, line in zip(corpora, axes, strict=True):
            for (key, label), axis in zip(PANELS, line, strict=True):
                draw(axis, key, {precision: points_of(rows, corpus, precision) for precision in COLOURS})
                if corpus == corpora[-1]:
                    axis.set_xlabel(label)
            line[0].set_ylabel(f"MAE, {corpus.upper()} validation")
        axes[0, 1].legend(
            frameon=False, loc="center", title="numbers: text blocks", title_fontsize=8
        )  # between the two
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    path.write_text(compact(drawn.getvalue()))
    return True


def draw(axis, key: str, lines: dict[str, list[dict[str, float]]]) -> None:
    """One panel: a line for each precision, the deviation over seeds at each point, and its number of text blocks."""
    whole = {"clip_on": False}  # all lies inside the axes, and clips are a tenth of the file
    for precision, points in lines.items():
        x, mae, sd = ([point[name] for point in points] for name in (key, "mae", "sd"))
        colour = COLOURS[precision]
        axis.plot(x, mae, color=colour, linewidth=1.4, label=precision, zorder=2, **whole)
        low, high = ([m + sign * s for m, s in zip(mae, sd, strict=True)] for sign in (-1, 1))
        axis.vlines(x, low, high, colour, linewidth=0.9, alpha=0.5, **whole)
        axis.scatter(x, mae, s=26, color=colour, edgecolor="white", linewidth=0.8, zorder=3, **whole)
        for at, error, point in zip(x, mae, points, strict=True):
            axis.annotate(
                str(point["blocks"]), (at, error), (5, 3), textcoords="offset points", color=colour, fontsize=8
            )
    axis.set_xlim(left=0)  # so that twice as far is twice as slow
    axis.margins(y=0.15)
    axis.grid(axis="y", color="#e3e5e8", linewidth=0.6, **whole)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GREY)
    axis.tick_params(left=False, color=GREY)
