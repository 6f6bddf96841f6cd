"""`psamf-edge bench`: how fast this machine is, at what cost, and how far the figures can be trusted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from psamf_edge.backends import DEVICES
from psamf_edge.bench import compare as comparison
from psamf_edge.bench.plot import draw
from psamf_edge.bench.record import Record, read_record
from psamf_edge.bench.suite import LENGTHS, SAMPLE, Settings, run
from psamf_edge.bench.tables import document, heading, tables_of
from psamf_edge.cli.files import check_file, write_file
from psamf_edge.cli.group import say
from psamf_edge.cli.options import limit_option
from psamf_edge.cli.streams import check_stdout, write_stdout
from psamf_edge.errors import UsageError

FORMATS = ("text", "json", "markdown")
MOST_PROCESSES = 64  # each takes some 200 MB


def _parse_concurrency(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        numbers = [int(part) for part in value.split(",")] if value is not None else []
    except ValueError:
        numbers = [0]
    if any(not 1 <= number <= MOST_PROCESSES for number in numbers):
        raise click.BadParameter(
            f"{value!r} is no list of numbers from 1 to {MOST_PROCESSES}, as in 1,2,4.", context, parameter
        )
    return tuple(sorted(set(numbers)))


def _parse_lengths(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[tuple[int, float], ...] | None:
    if value is None:
        return None
    try:
        pairs = [part.split(":") for part in value.split(",")]
        return tuple(dict.fromkeys((int(tokens), float(seconds)) for tokens, seconds in pairs))
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no list of TOKENS:SECONDS, as in 10:2,50:10.", context, parameter
        ) from error


@click.command()
@click.argument("clip", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--bundle",
    "bundles",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A model to measure; repeat it to compare several.  [default: the one that comes with psamf-edge]",
)
@click.option("--text", help="What is said in the clip.  [default: as infer finds it]")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of the model.")
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True, help="Clips of each model that count.")
@click.option("--warmup", type=click.IntRange(0), default=3, show_default=True, help="Clips run first and not counted.")
@click.option(
    "--concurrency",
    callback=_parse_concurrency,
    metavar="N,N,...",
    help="Processes that score at the same time.  [default: 1 and the number of cores]",
)
@click.option(
    "--lengths",
    callback=_parse_lengths,
    metavar="TOKENS:SECONDS,...",
    help=f"Of utterances, for the model alone.  [default: {','.join(f'{t}:{s:g}' for t, s in LENGTHS)}]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.json",
              help="Also write every sample, as JSON.")  # fmt: skip
@click.option("-f", "--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.svg", help="Also draw it.")
@click.option("--compare", nargs=2, type=click.Path(path_type=Path), metavar="A.json B.json",
              help="Measure nothing: print B over A for two files of -o.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@limit_option
@click.pass_context
def bench(
    context: click.Context,
    clip: Path | None,
    bundles: tuple[Path, ...],
    text: str | None,
    device: str,
    threads: int,
    rounds: int,
    warmup: int,
    concurrency: tuple[int, ...],
    lengths: tuple[tuple[int, float], ...] | None,
    output: Path | None,
    format_: str,
    plot: Path | None,
    compare: tuple[Path, Path] | None,
    quiet: bool,
    limits: dict[str, int],
) -> int:
    """Measure CLIP, or the sample clip: cold start, latency by stage, throughput, memory and energy.

    Several bundles take turns in one run, and each has its ratio to the first. Where the figures mislead, the report
    says so. With --compare, two files of earlier runs are compared.
    """
    if compare:
        given = [name for name, value in context.params.items() if name not in ("compare", "format_", "quiet")
                 and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]  # fmt: skip
        if given:
            raise click.UsageError(f"--compare measures nothing: leave out {', '.join(given)}.", context)
        return _compare(*compare, format_)
    check_stdout()
    if output:
        check_file(output, [clip or SAMPLE])
    if plot:
        check_file(plot, [clip or SAMPLE])
    if output and plot and os.path.realpath(output) == os.path.realpath(plot) != os.devnull:
        raise UsageError(f"{plot} would be written by -o and by --plot; name two files.")
    settings = Settings(
        clip or SAMPLE, bundles or (None,), text, device, threads, rounds, warmup, concurrency, lengths, limits
    )
    record = run(settings, (lambda message: None) if quiet else say)
    with contextlib.ExitStack() as rest:  # none is lost because another cannot be written
        if plot:
            rest.callback(lambda: write_file(plot, draw(record)))
        if output:
            rest.callback(lambda: write_file(output, record.to_json()))
        write_stdout(record.to_json() if format_ == "json" else _report(record, format_))
    return 0


def _report(record: Record, format_: str) -> str:
    return document(heading(record), tables_of(record), record.warnings, record.notes, format_)


def _compare(first: Path, second: Path, format_: str) -> int:
    a, b = read_record(first), read_record(second)
    pairs, remarks = comparison.compare(a, b)
    if format_ == "json":
        write_stdout(comparison.as_json(a, b, pairs, remarks))
        return 0
    head = [f"A: {first}, {a.taken}", f"B: {second}, {b.taken}"]
    warnings = [*remarks, *(f"A: {line}" for line in a.warnings), *(f"B: {line}" for line in b.warnings)]
    write_stdout(document(head, [comparison.as_table(pairs)], warnings, [], format_))
    return 0
