"""The options of `psamf-edge compile` that say what a precision may cost."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from psamf_edge.cli.files import check_file
from psamf_edge.compile.quality.bounds import MAX_ACC2, MAX_GAP, MAX_MAE, MAX_WORST, Bounds, Quality
from psamf_edge.dataset import read_rows
from psamf_edge.errors import UsageError


def quality_options(function: Callable) -> Callable:
    """Add the options; the function receives them as `quality`, a Quality."""

    @functools.wraps(function)
    def command(
        max_mae: float,
        max_acc2: float,
        max_gap: float,
        max_worst: float,
        validate: Path | None,
        mixed: bool,
        report: Path | None,
        calibrate: Path | None,
        **values: Any,
    ) -> Any:
        _check_labelled(validate)
        if report is not None:
            check_file(report, [path for path in (validate, calibrate) if path is not None])
            if os.path.realpath(report) == os.path.realpath(values["output"]):
                raise UsageError(f"{report} is where the bundle goes; name another file for the report.")
        for path in (validate, calibrate):
            if path is not None:
                read_rows(path)  # what is wrong with it is found before the work, not after
        bounds = Bounds(max_mae, max_acc2, max_gap, max_worst)
        return function(quality=Quality(bounds, validate, mixed, report, calibrate), **values)

    file = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("--report", type=file, metavar="OUT.html", help="Write the comparison with fp32 as a page."),
        click.option(
            "--mixed",
            is_flag=True,
            help="Past a bound, keep the layers to blame in a higher precision (fp16 for 8 bits on a GPU, else fp32).",
        ),
        _bound("--max-worst", MAX_WORST, "How far any one score may be from fp32."),
        _bound("--max-gap", MAX_GAP, "How far the scores may be from those in fp32 in the mean."),
        _bound("--max-acc2", MAX_ACC2, "How far it may lower Acc-2 on those labels."),
        _bound(
            "--max-mae", MAX_MAE, "How much the precision may add to the mean error against the labels of --validate."
        ),
        click.option(
            "--validate",
            type=file,
            metavar="DATA.csv",
            help="Judge the precision on these utterances, a file as `psamf-edge evaluate` takes it.  [default: a small"
            " synthetic check set, which has no labels]",
        ),
        click.option(
            "--calibrate",
            type=file,
            metavar="DATA.csv",
            help="For int8 and fp8 on a GPU, find the ranges of the activations on these utterances: a file like that"
            " of --validate, and better not the same, but training data. Up to 256 rows of it are taken, evenly, and"
            " the check set.  [default: the check set alone]",
        ),
    ):
        command = option(command)
    return command


def _bound(name: str, default: float, text: str) -> Callable:
    return click.option(
        name, type=click.FloatRange(0), default=default, show_default=True, callback=_check_number, help=text
    )


def _check_number(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if math.isnan(value):  # no error would ever be within it
        raise click.BadParameter("nan is no bound; give a number from 0 on.", context, parameter)
    return value


def _check_labelled(validate: Path | None) -> None:
    context = click.get_current_context()
    if validate is None and any(
        context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE for name in ("max_mae", "max_acc2")
    ):
        raise UsageError("--max-mae and --max-acc2 are held against labels: give those too, with --validate.")
