"""`psamf-edge distill`: one or several teachers to the weights of a student."""

from __future__ import annotations

from pathlib import Path

import click

from psamf_edge.compile.training.options import (
    FOLDER,
    CommonOptions,
    DataOption,
    TrainingCommand,
    data_options,
    out_option,
    parts_option,
    training_options,
)


@click.command("distill", cls=TrainingCommand)
@click.argument("teachers", nargs=-1, required=True, type=FOLDER)
@data_options
@parts_option
@out_option
@click.option("--text-blocks", type=int, help="Text blocks of the student.  [default: as many as the teacher]")
@click.option("--seed", type=int, help="[default: 0]")
@training_options
def distill_command(
    common: CommonOptions, teachers: tuple[Path, ...], data: DataOption, parts: Path, out: Path, **chosen: int | None
) -> None:
    """Train the edge model with what TEACHERS know.

    Each of TEACHERS is a directory that `psamf-edge train teacher` wrote, or each holds the weights of a larger
    student. The student begins with the first one's text blocks and learns its hidden states; of all it learns the mean
    score.
    """
    from psamf_edge.compile.distillation.settings import DistilSettings
    from psamf_edge.compile.distillation.source import open_source
    from psamf_edge.compile.training.student import train_student

    settings, chosen_data = common.settings(DistilSettings, **chosen), data.chosen()
    run = common.open_run(out, settings)
    source = open_source(teachers, out, run.compute)
    train_student(chosen_data, source, parts, out, settings, run, f"psamf-edge distill TEACHER {data.shown} -o OUT")
