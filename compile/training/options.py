"""What the training commands share: their options, their settings, and the run that these open.

@click.command("teacher", cls=TrainingCommand)
@click.option("-o", "--out", required=True, ...)
@training_options
def teacher_command(common: CommonOptions, out: Path) -> None:
    settings = common.settings(TeacherSettings)
    run = common.open_run(out, settings)
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from psamf_edge.compile.source import DEFAULT_WEIGHTS
from psamf_edge.errors import UsageError

if TYPE_CHECKING:
    from psamf_edge.compile.training.epochs import Run
    from psamf_edge.compile.training.settings import LoopSettings

Settings = TypeVar("Settings", bound="LoopSettings")
SHOW = "--show-settings"
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

# options of several commands, each a decorator
bert_option = click.option(
    "--bert",
    required=True,
    help="Text encoder to begin with: a plain BERT with the uncased vocabulary, or an MPNet. The directory of a "
    "Hugging Face checkpoint, or its full name on the hub, which is then fetched, such as "
    "sentence-transformers/all-MiniLM-L6-v2.",
)
parts_option = click.option(
    "--parts",
    type=FOLDER,
    default=DEFAULT_WEIGHTS,
    help="Weights directory to take the face models and the vocabulary from.  [default: those that ship]",
)
out_option = click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory to write. Run again with the same one to go on after an interruption.",
)


@dataclass(frozen=True)
class CommonOptions:
    """The values of the options that `training_options` adds."""

    settings_file: Path | None
    assignments: tuple[str, ...]
    show_settings: bool
    device: str
    threads: int
    tensorboard: bool

    def settings(self, kind: type[Settings], **options: Any) -> Settings:
        """The file's, then --set, then the command's own `options` that are not None. --show-settings ends here.

        Raises:
            UsageError: a name is unknown, a value is of the wrong type or out of range.
        """
        from psamf_edge.compile.training.toml_settings import make_settings, to_toml

        settings = make_settings(kind, self.settings_file, self.assignments, **options)
        if self.show_settings:
            click.echo(to_toml(settings), nl=False)
            click.get_current_context().exit()
        return settings

    def open_run(self, out: Path, settings: LoopSettings) -> Run:
        """Device, log and checkpoints of a run in `out`, which remembers the settings.

        Raises:
            UsageError: `out` was begun with other settings.
            MissingDependencyError: there is no such device.
        """
        import torch

        from psamf_edge.compile.training.device import open_compute
        from psamf_edge.compile.training.epochs import Run
        from psamf_edge.compile.training.log import Log
        from psamf_edge.compile.training.toml_settings import remember

        torch.set_num_threads(self.threads)
        compute = open_compute(self.device)
        with compute.main_first():
            remember(out, settings)
        if not compute.is_main:
            return Run(Log(None, lambda line: None), compute, out / "checkpoints")
        board = out / "tensorboard" if self.tensorboard else None
        return Run(Log(out / "log.csv", lambda line: click.echo(line, err=True), board), compute, out / "checkpoints")


def training_options(function: Callable) -> Callable:
    """Add the shared options; the function receives them as `common`, a CommonOptions."""
    names = CommonOptions.__dataclass_fields__

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        common = CommonOptions(**{name: values.pop(name) for name in names})
        return function(common=common, **values)

    for option in (
        click.option("--tensorboard", is_flag=True, help="Write TensorBoard's event files to OUT/tensorboard as well."),
        click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads."),
        click.option(
            "--device",
            type=click.Choice(("auto", "cpu", "cuda")),
            default="auto",
            show_default=True,
            help="auto takes a GPU where PyTorch sees one.",
        ),
        click.option(SHOW, is_flag=True, help="Print the settings of this call as TOML and end."),
        click.option(
            "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One setting; beats the file. Repeatable."
        ),
        click.option(
            "--settings",
            "settings_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help=f"TOML file of settings. {SHOW} prints one to begin with.",
        ),
    ):
        command = option(command)
    return command


def data_options(function: Callable) -> Callable:
    """Add --data and --features, of which a call has one; the function receives them as `data`, for `open_data`."""

    @functools.wraps(function)
    def command(data: Path | None, features: tuple[Path, ...], **values: Any) -> Any:
        return function(data=DataOption(data, features), **values)

    for option in (
        click.option(
            "--features",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            multiple=True,
            help="File of real labelled clips that `psamf-edge extract` wrote, in place of --data. Repeatable.",
        ),
        click.option(
            "--data",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Folder with mosi/, mosei/, speech/ and faces/, to compose samples of (see README, Train).",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class DataOption:
    """The values of the options that `data_options` adds."""

    folder: Path | None
    files: tuple[Path, ...]

    def chosen(self) -> Path | tuple[Path, ...]:
        """The folder or the files. Raises UsageError unless it is one of the two."""
        if (self.folder is None) != bool(self.files):
            raise UsageError(
                "Give either --data, a folder of sentences, voices and faces, or --features, files of labelled clips "
                "that `psamf-edge extract` wrote."
            )
        return self.folder or self.files

    @property
    def shown(self) -> str:
        """As the record of a training writes it."""
        return "--features FILE" if self.files else "--data DATA"


class TrainingCommand(click.Command):
    """A command that shows its settings without the options it needs for more."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        parser = self
        if SHOW in args:
            parser = copy.copy(self)
            parser.params = [copy.copy(parameter) for parameter in self.params]
            for parameter in parser.params:
                parameter.required = False
        return click.Command.parse_args(parser, ctx, args)
