"""Tables of a run or of a comparison, as Markdown or aligned for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psamf_edge.bench.record import Record
from psamf_edge.bench.series import PERCENTILES, Series, paired_ratio, ratio, summary
from psamf_edge.report.escape import printable
from psamf_edge.report.wording import extent

COLUMNS = [*(f"p{q}" for q in PERCENTILES), "max"]


@dataclass(frozen=True)
class Table:
    """Rows of text under a header, whose first cell names the table."""

    header: list[str]
    rows: list[list[str]]


def tables_of(record: Record) -> list[Table]:
    """One for each kind of group. Where several models took turns, each has its ratio to the first."""
    kinds: dict[str, list[Series]] = {}
    for each in record.series:
        kinds.setdefault(kind_of(each), []).append(each)
    return [_table(kind, members, list(record.models)) for kind, members in kinds.items()]


def _table(kind: str, members: list[Series], models: list[str]) -> Table:
    several, summaries = len(models) > 1, [summary(each.samples) for each in members]
    repeated = any(figures["n"] > 1 for figures in summaries)
    header = [kind, *(["bundle"] if several else []), *(["n", *COLUMNS] if repeated else ["value"]), "unit"]
    header += [f"times {models[0]} [95 %]"] if several else []
    base = {(each.group, each.name): each for each in members if each.model == models[0]}
    rows = []
    for (group, name), alike in _grouped(members).items():
        for each in alike:
            row = [row_name(each), *([each.model] if several else []), *_figures(each, repeated), each.unit]
            if several:
                row.append("" if each.model == models[0] else _times(each, base.get((group, name))))
            rows.append(row)
    return Table(header, rows)


def _grouped(members: list[Series]) -> dict[tuple[str, str], list[Series]]:
    """The models' series of the same quantity beside each other."""
    found: dict[tuple[str, str], list[Series]] = {}
    for each in members:
        found.setdefault((each.group, each.name), []).append(each)
    return found


def _figures(series: Series, repeated: bool) -> list[str]:
    figures = summary(series.samples)
    if not repeated:
        return [figure(figures["p50"])]
    if figures["n"] == 1:
        return ["1", figure(figures["p50"]), *[""] * (len(COLUMNS) - 1)]
    return [str(figures["n"]), *(figure(figures[name]) for name in COLUMNS)]


def _times(series: Series, first: Series | None) -> str:
    if first is None:
        return ""
    took_turns = kind_of(series) in ("clip", "model")
    found = (paired_ratio if took_turns else ratio)(series.samples, first.samples)
    return "" if found is None else str(found)


def kind_of(series: Series) -> str:
    """The table that a series belongs to: "model" of the group "model, 50 tokens and 10 s"."""
    return series.group.partition(",")[0]


def row_name(series: Series) -> str:
    """What a series is called in the table of its kind."""
    detail = series.group.partition(", ")[2]
    return f"{detail}: {series.name}" if detail else series.name


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def as_markdown(table: Table) -> str:
    """With a rule under the header; bars inside cells are escaped."""
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(printable(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def as_text(table: Table) -> str:
    """Columns aligned: names to the left, figures to the right."""
    rows = [[printable(cell) for cell in row] for row in [table.header, *table.rows]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    left = {0} | {column for column, name in enumerate(table.header) if name in ("bundle", "unit")}

    def aligned(row: list[str]) -> Iterator[str]:
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            yield cell.ljust(width) if column in left else cell.rjust(width)

    return "\n".join("  ".join(aligned(row)).rstrip() for row in rows)


def document(
    head: Sequence[str], tables: Sequence[Table], warnings: Sequence[str], notes: Sequence[str], format: str
) -> str:
    """Lines about what was measured, tables, warnings and notes. `format`: "text" or "markdown"."""
    draw, mark = (as_markdown, "- ") if format == "markdown" else (as_text, "! ")
    parts = [
        "\n".join(map(printable, head)) if format == "text" else "\n".join(f"- {printable(line)}" for line in head)
    ]
    parts += [draw(table) for table in tables]
    if warnings:
        parts.append("\n".join(["Where these figures mislead:", *(f"{mark}{printable(line)}" for line in warnings)]))
    if notes:
        bullet = "- " if format == "markdown" else "  "
        parts.append("\n".join(["Not measured:", *(f"{bullet}{printable(line)}" for line in notes)]))
    return "\n\n".join(parts) + "\n"


def heading(record: Record) -> list[str]:
    """What was measured, on what, with what."""
    machine, clip = record.machine, record.clip
    versions = machine.get("versions", {})
    lines = [
        f"{record.taken}: {clip['name']}, {extent(clip['utterances'], clip['duration_ms'])}",
        ", ".join([str(machine.get("cpu")), *machine.get("gpus", [])]),
        ", ".join(f"{name} {number}" for name, number in versions.items()),
    ]
    lines += [f"power mode {machine['power_mode']}"] if machine.get("power_mode") else []
    for label, model in record.models.items():
        note = f" ({model['note']})" if model.get("note") else ""
        lines.append(
            f"{label}: {model.get('precision')} for {model.get('target')}, on {model.get('backend')},"
            f" {model.get('size_mb')} MB, score {model.get('score')}{note}"
        )
    return lines
