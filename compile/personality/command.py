"""`psamf-edge train personality`: the Big-Five data to the encoder whose vector conditions the teacher."""

from __future__ import annotations

from pathlib import Path

import click

from psamf_edge.compile.training.options import (
    FOLDER,
    CommonOptions,
    TrainingCommand,
    bert_option,
    out_option,
    training_options,
)


@click.command("personality", cls=TrainingCommand)
@click.option("--data", type=FOLDER, required=True, help="Folder with essays.csv and friends_persona.csv.")
@bert_option
@out_option
@click.option("--seed", type=int, help="Of the training; the held-out texts stay the same.  [default: 0]")
@click.option("--epochs", type=int, help="How often each text is seen.  [default: 1]")
@training_options
def personality_command(common: CommonOptions, data: Path, bert: str, out: Path, **chosen: int | None) -> None:
    """Train the personality encoder of the teacher, and measure it on held-out essays and dialogues."""
    from psamf_edge.compile.model.pretrained import find_encoder
    from psamf_edge.compile.personality.train import PersonalitySettings, train_personality

    settings = common.settings(PersonalitySettings, **chosen)
    train_personality(data, find_encoder(bert), out, settings, common.open_run(out, settings))
