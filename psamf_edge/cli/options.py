"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from psamf_edge.analyzer import Analyzer
from psamf_edge.backends import DEVICES
from psamf_edge.cli.group import say
from psamf_edge.errors import UsageError
from psamf_edge.media.limits import Limits, described
from psamf_edge.result import MODALITIES

MAX_DIGITS = 16  # of a limit; Python takes minutes over a number of millions


def _parse_modalities(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in MODALITIES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(MODALITIES)}.", context, parameter)
    return tuple(name for name in MODALITIES if name in names)


def _parse_limits(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    limits = {}
    for name, sign, value in (text.partition("=") for text in values):
        if not sign or not value.isdecimal() or len(value) > MAX_DIGITS:
            raise click.BadParameter(f"{name + sign + value!r} is no NAME=N, as in seconds=600.", context, parameter)
        limits[name] = int(value)
    try:
        Limits.of(limits)
    except UsageError as error:
        raise click.BadParameter(str(error), context, parameter) from error
    return limits


limit_option = click.option(
    "--limit",
    "limits",
    multiple=True,
    callback=_parse_limits,
    metavar="NAME=N",
    help=f"A cap on each clip; repeat it for several.  [defaults: {described()}]",
)


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
            help="auto takes the GPU for a bundle that was compiled for one, else the CPU. cuda takes TensorRT, or ONNX"
            " Runtime for an fp32 bundle made for the CPU; onnxruntime-* that provider of onnxruntime-gpu. None of"
            " these falls back to the CPU; auto may, if the bundle has no CUDA kernel of ours, and says so.",
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
        limit_option,
    ):
        command = option(command)
    return command


def open_analyzer(
    bundle: Path | None,
    device: str,
    threads: int,
    quiet: bool,
    require_signature: Path | None,
    limits: dict[str, int],
) -> Analyzer:
    """Load the model and say what it runs on."""
    analyzer = Analyzer(bundle, device, threads, require_signature, limits)
    if analyzer.note:
        say(analyzer.note)
    if not quiet:
        say(f"model {analyzer.model.name}, {analyzer.model.precision}, runs on {analyzer.model.backend}")
    return analyzer
