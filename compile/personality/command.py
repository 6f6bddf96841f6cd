"""`psamf-edge train personality`: the Big-Five data to the encoder whose vector conditions the teacher."""

from __future__ import annotations

from pathlib import Path

import click

from psamf_edge.compile.training.options import CommonOptions, TrainingCommand, training_options


@click.command("personality", cls=TrainingCommand)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder with essays.csv and friends_persona.csv.",
)
@click.option(
    "--bert",
    required=True,
    help="Plain BERT: a folder with config.json, model.safetensors and vocab.txt, or a name on the Hugging Face hub.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for personality.safetensors and personality.json. A finished training is not repeated.",
)
@click.option("--seed", type=int, help="Of the training; the held-out texts stay the same.  [default: 0]")
@click.option("--epochs", type=int, help="How often each text is seen.  [default: 1]")
@training_options
def personality_command(common: CommonOptions, data: Path, bert: str, out: Path, **chosen: int | None) -> None:
    """Train the personality encoder of the teacher, and measure it on held-out essays and dialogues."""
    from psamf_edge.compile.model.bert import find_bert
    from psamf_edge.compile.personality.train import PersonalitySettings, train_personality

    settings = common.settings(PersonalitySettings, **chosen)
    train_personality(data, find_bert(bert), out, settings, common.open_run(out, settings))
