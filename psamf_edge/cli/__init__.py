"""The command line: data on stdout, everything else on stderr, and an exit code that says how it went.

0 all well, 1 some inputs failed, 2 wrong use, 3 the environment lacks something, 4 integrity, 130 interrupted,
143 terminated.
"""

from __future__ import annotations

import os

# Before NumPy is imported: more BLAS threads took 15 % more CPU time for a clip and no less of the user's (measured).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import click

from psamf_edge import __version__
from psamf_edge.cli.group import LazyGroup

COMMANDS = {  # name: where it is, and its line in --help; a command is imported when it is called
    "infer": ("psamf_edge.cli.infer:infer", "Score clips, or words alone."),
    "evaluate": ("psamf_edge.cli.evaluate:evaluate", "Compare scores with the labels of a CSV file."),
    "bench": ("psamf_edge.cli.bench:bench", "Measure latency, throughput, memory and energy, and compare runs."),
    "doctor": ("psamf_edge.cli.doctor:doctor", "See what this machine has, and how to mend what it lacks."),
    "compile": ("psamf_edge.compile.command:command", "Make a bundle from trained weights."),
    "extract": ("psamf_edge.compile.extraction.command:command", "Turn labelled clips into features."),
    "train": ("psamf_edge.compile.training.command:train_group", "Train weights from labelled data."),
    "distill": ("psamf_edge.compile.distillation.command:distill_command", "Train the edge model with teachers."),
}


@click.group(
    cls=LazyGroup,
    commands_at=COMMANDS,
    no_args_is_help=False,  # a forgotten command is wrong use, with its exit code
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-V", "--version", prog_name="psamf-edge")
@click.option(
    "--debug",
    is_flag=True,
    envvar="PSAMF_EDGE_DEBUG",
    help="Show the traceback of an error, and end with it.",
)
def main(debug: bool) -> None:
    """Read sentiment from clips of people who talk: words, voice and face, on this device."""
    main.debug = debug
