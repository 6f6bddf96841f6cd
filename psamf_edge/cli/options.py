"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from psamf_edge.analyzer import Analyzer
from psamf_edge.backends import DEVICES
from psamf_edge.cli.group import say
from psamf_edge.result import MODALITIES


def _parse_modalities(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in MODALITIES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(MODALITIES)}.", context, parameter)
    return tuple(name for name in MODALITIES if name in names)


def model_options(command: Callable) -> Callable:
    """Which model, on what, from which modalities."""
    for option in (
        click.option(
            "-q", "--quiet", is_flag=True, help="Nothing on stderr but errors and what device was not usable."
        ),
        click.option(
            "--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of the model."
        ),
        click.option(
            "--device",
            type=click.Choice(DEVICES),
            default="auto",
            show_default=True,
            help="cuda never falls back to the CPU; auto may, and says so.",
        ),
        click.option(
            "--bundle",
            type=click.Path(path_type=Path),
            help="The model, a .psamf directory.  [default: the one that comes with psamf-edge]",
        ),
        click.option(
            "--require-signature",
            type=click.Path(path_type=Path),
            metavar="KEY.pub",
            help="Use the bundle only if a key in this file signed it (ssh-keygen -Y sign -n psamf-edge-bundle).",
        ),
        click.option(
            "--modalities",
            default=",".join(MODALITIES),
            show_default=True,
            callback=_parse_modalities,
            help="What to use of each clip, separated by commas.",
        ),
    ):
        command = option(command)
    return command


def open_analyzer(
    bundle: Path | None, device: str, threads: int, quiet: bool, require_signature: Path | None
) -> Analyzer:
    """Load the model and say what it runs on."""
    analyzer = Analyzer(bundle, device, threads, require_signature)
    if analyzer.note:
        say(analyzer.note)
    if not quiet:
        say(f"model {analyzer.model.name}, {analyzer.model.precision}, runs on {analyzer.model.backend}")
    return analyzer
