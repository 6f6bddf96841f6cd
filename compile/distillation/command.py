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
@click.option(
    "--begin",
    help="What the student begins with: a plain BERT, as a checkpoint directory or a name on the hub, or the weights "
    "directory of a student.  [default: the first teacher's text blocks]",
)
@click.option(
    "--sentences",
    multiple=True,
    metavar="FILE[:COLUMN]",
    help="Further sentences, without labels, which the teachers score: a text file with a text a line, or a CSV file "
    "and its column (text). Repeatable.",
)
@click.option("--text-blocks", type=int, help="Text blocks of the student.  [default: as many as it begins with]")
@click.option("--seed", type=int, help="[default: 0]")
@training_options
def distill_command(
    common: CommonOptions,
    teachers: tuple[Path, ...],
    data: DataOption,
    begin: str | None,
    sentences: tuple[str, ...],
    parts: Path,
    out: Path,
    **chosen: int | None,
) -> None:
    """Train the edge model with what TEACHERS know.

    Each of TEACHERS is a directory that `psamf-edge train teacher` wrote, or each holds the weights of a larger
    student. The student begins with the first one's text blocks and learns its hidden states; of all it learns the mean
    score. Between encoders of different widths, leave out what cannot be compared: --set distil_hidden=0.
    """
    from psamf_edge.compile.data.sentences import SentenceFile, read_sentences
    from psamf_edge.compile.distillation.settings import DistilSettings
    from psamf_edge.compile.distillation.source import open_source
    from psamf_edge.compile.distillation.words import holds_student
    from psamf_edge.compile.model.pretrained import find_encoder
    from psamf_edge.compile.training.student import train_student
    from psamf_edge.words.wordpiece import WordPiece

    settings, chosen_data = common.settings(DistilSettings, **chosen), data.chosen()
    run = common.open_run(out, settings)
    wordpiece = WordPiece((parts / "vocab.txt").read_bytes())
    files = [SentenceFile.parse(given) for given in sentences]
    further = read_sentences(files, wordpiece, settings.max_tokens, settings.sentences_per_file)
    start = None if begin is None else find_encoder(begin)
    source = open_source(teachers, out, run.compute, settings, start, further)
    given = [f"--begin {'STUDENT' if holds_student(start) else 'BERT'}"] if start else []
    given += [f"--sentences {file.path.parent.name}/{file.path.name}:{file.column}" for file in files]
    command = " ".join(["psamf-edge distill TEACHER", data.shown, *given, "-o OUT"])
    train_student(chosen_data, source, parts, out, settings, run, command)
