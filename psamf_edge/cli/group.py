"""A group of commands that imports each when it is called, and turns every error into one sentence and an exit code."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any, NoReturn

import click

from psamf_edge.cli.streams import echo, replace_closed
from psamf_edge.errors import MissingDependencyError, PsamfError

INTERRUPTED = 130  # 128 + SIGINT: what a shell reports for a program that this signal ends
TERMINATED = 143  # 128 + SIGTERM
EXTRAS = {  # packages that are no dependency, and the extra of psamf-edge that brings each
    **dict.fromkeys(("torch", "transformers", "onnx", "onnxscript", "safetensors", "tqdm"), "compile"),
    "matplotlib": "plot",
}
CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does: decoders end with it, and no unfinished file stays.

    Left alone, it would take the process away between two instructions; and as the first process of a container, none.
    """


class LazyGroup(click.Group):
    """See the module. `commands_at`: name to ("module:attribute", line of help)."""

    def __init__(self, *args: Any, commands_at: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_at = commands_at
        self.debug = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_at)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.commands_at:
            return None
        module, _, attribute = self.commands_at[name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.commands_at.items()])

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run, report and exit."""
        self.debug = False  # until the options are read
        replace_closed()
        main_thread = threading.current_thread() is threading.main_thread()  # no other may set handlers
        if main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except (KeyboardInterrupt, click.Abort) as error:
            terminated = isinstance(error.__cause__ or error, Terminated)  # click wraps it in an Abort
            echo(f"psamf-edge: {'terminated' if terminated else 'interrupted'}")
            code = TERMINATED if terminated else INTERRUPTED
        except Exception as error:
            if self.debug and not isinstance(error, click.ClickException):
                echo("".join(traceback.format_exception(error)), nl=False)
            say(f"error: {describe(error)}")
            code = exit_code(error)
        sys.exit(code if isinstance(code, int) else 0)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def say(message: str) -> None:
    """One line on stderr, free of control characters: file names and transcripts are part of messages."""
    from psamf_edge.report.escape import printable

    echo(f"psamf-edge: {printable(message)}")


def describe(error: Exception) -> str:
    """An error as a sentence."""
    if isinstance(error, PsamfError):
        return str(error)
    if isinstance(error, click.ClickException):
        help_hint = f" See `{error.ctx.command_path} --help`." if getattr(error, "ctx", None) else ""
        return error.format_message() + help_hint
    if isinstance(error, ImportError):
        return _missing(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the output'}: {error.strerror}."
    return f"unexpected {type(error).__name__}: {error}. Run with --debug to see where, and please report it."


def exit_code(error: Exception) -> int:
    """What the process ends with."""
    if isinstance(error, ImportError):
        return MissingDependencyError.exit_code
    return getattr(error, "exit_code", 1)


def concerns_one_input(error: Exception, context: click.Context) -> bool:
    """Whether the next input may still work: not where the call or the machine is at fault, nor under --debug."""
    return exit_code(error) == 1 and not context.find_root().params["debug"]


def _missing(error: ImportError) -> str:
    if not isinstance(error, ModuleNotFoundError):
        return f"A package that is installed cannot be loaded ({error}); install it again."
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    how = f"pip install 'psamf-edge[{extra}]'" if extra else f"pip install {package}"
    if extra == "compile":
        how = f"{how} (where there is no GPU, first: {CPU_TORCH})"
    return f"This needs the package {package}, which is not installed: {how}."
