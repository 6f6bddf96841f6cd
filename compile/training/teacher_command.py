"""`psamf-edge train teacher`: labelled data to a PSA-MF that students are distilled from."""

from __future__ import annotations

from pathlib import Path

import click

from psamf_edge.compile.training.options import (
    FOLDER,
    CommonOptions,
    DataOption,
    TrainingCommand,
    bert_option,
    data_options,
    out_option,
    parts_option,
    training_options,
)

WITHOUT = {  # what the paper takes away, and the setting that does it
    "personality": {"personality": False},
    "l_ps": {"l_ps": 0.0},
    "l_clm": {"l_clm": 0.0},
    "pre_fusion": {"pre_fusion": False},
    "enhanced_fusion": {"enhanced_fusion": False},
}


@click.command("teacher", cls=TrainingCommand)
@data_options
@bert_option
@click.option("--personality", type=FOLDER, required=True, help="What `psamf-edge train personality` wrote.")
@parts_option
@out_option
@click.option("--preset", type=click.Choice(("drawn", "released")),
              help="As the paper draws the model, or as its code was released.  [default: drawn]")  # fmt: skip
@click.option("--without", type=click.Choice(tuple(WITHOUT)), multiple=True,
              help="Leave a part out, as the paper's ablations do. Repeatable.")  # fmt: skip
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--epochs", type=int, help="At most.  [default: 10]")
@training_options
def teacher_command(
    common: CommonOptions,
    data: DataOption,
    bert: str,
    personality: Path,
    parts: Path,
    out: Path,
    without: tuple[str, ...],
    **chosen: int | str | None,
) -> None:
    """Train PSA-MF in full, on sentences with composed voices and faces, or on labelled clips."""
    from psamf_edge.compile.training.teacher import train_psamf
    from psamf_edge.compile.training.teacher_stage import TeacherSettings

    for part in without:
        chosen |= WITHOUT[part]
    settings = common.settings(TeacherSettings, **chosen)
    train_psamf(data.chosen(), bert, personality, parts, out, settings, common.open_run(out, settings))
