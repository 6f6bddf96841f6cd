"""`psamf-edge train`: what can be trained, each by a command of its own."""

from __future__ import annotations

import click

from psamf_edge.cli.group import LazyGroup

COMMANDS = {
    "student": ("psamf_edge.compile.training.student_command:student_command", "The edge model, in three stages."),
    "teacher": ("psamf_edge.compile.training.teacher_command:teacher_command", "PSA-MF in full, to distil from."),
    "personality": (
        "psamf_edge.compile.personality.command:personality_command",
        "The personality encoder that the teacher holds frozen.",
    ),
}


@click.group("train", cls=LazyGroup, commands_at=COMMANDS, no_args_is_help=False)
def train_group() -> None:
    """Train weights from labelled data.

    Interrupted, even killed, the same command goes on from the last checkpoint and ends with the same weights. Several
    processes, each with a share of every batch: accelerate launch -m psamf_edge train ...
    """
