"""`psamf-edge train student`: labelled data to a weights directory."""

from __future__ import annotations

from pathlib import Path

import click

from psamf_edge.compile.training.options import (
    CommonOptions,
    DataOption,
    TrainingCommand,
    bert_option,
    data_options,
    out_option,
    parts_option,
    training_options,
)


@click.command("student", cls=TrainingCommand)
@data_options
@bert_option
@parts_option
@out_option
@click.option("--text-blocks", type=int, help="Blocks of the checkpoint that are kept.  [default: all]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--text-epochs", type=int, help="Epochs of stage 1.  [default: 3]")
@click.option("--fusion-epochs", type=int, help="Epochs of stage 3.  [default: 5]")
@training_options
def student_command(
    common: CommonOptions, data: DataOption, bert: str, parts: Path, out: Path, **chosen: int | None
) -> None:
    """Train the edge model on text, speech and face data, or on labelled clips."""
    from psamf_edge.compile.model.pretrained import find_encoder
    from psamf_edge.compile.training.objective import PretrainedText
    from psamf_edge.compile.training.settings import TrainSettings
    from psamf_edge.compile.training.student import train_student

    settings, source = common.settings(TrainSettings, **chosen), PretrainedText(find_encoder(bert))
    command = f"psamf-edge train student {data.shown} --bert BERT -o OUT"
    train_student(data.chosen(), source, parts, out, settings, common.open_run(out, settings), command)
