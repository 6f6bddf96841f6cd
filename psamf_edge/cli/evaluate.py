"""`psamf-edge evaluate`: the field's metrics on a labelled CSV file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import click

from psamf_edge.analyzer import Analyzer
from psamf_edge.cli.files import check_file, write_file
from psamf_edge.cli.group import concerns_one_input, describe, say
from psamf_edge.cli.options import model_options, open_analyzer
from psamf_edge.cli.output import saved_if_cut_short
from psamf_edge.cli.progress import Progress
from psamf_edge.cli.streams import check_stdout, write_stdout
from psamf_edge.dataset import Row, read_rows
from psamf_edge.errors import InputError
from psamf_edge.metrics import evaluate_scores
from psamf_edge.report.escape import csv_cell, id_cell
from psamf_edge.result import Result

PREDICTION_COLUMNS = ("id", "label", "score", "confidence", "error")


@click.command()
@click.argument("data", type=click.Path(path_type=Path), metavar="DATA.csv")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.csv",
    help="Also write the score of each row: " + ", ".join(PREDICTION_COLUMNS) + ".",
)
@click.option("--split", help="Use only the rows whose column `split` says this.")
@model_options
@click.pass_context
def evaluate(
    context: click.Context,
    data: Path,
    predictions: Path | None,
    split: str | None,
    modalities: tuple[str, ...],
    bundle: Path | None,
    require_signature: Path | None,
    device: str,
    threads: int,
    quiet: bool,
    limits: dict[str, int],
) -> int:
    """Score every row of DATA.csv and print metrics as JSON.

    The columns are id, label (from -3 to 3), and clip (a path relative to the file) or text or both; a cell of these
    two may be empty. A row is one utterance. In the metrics, has0 counts zero as positive, non0 leaves out labels of
    zero. Rows that cannot be scored are named on stderr and counted as `failed`.
    """
    rows = read_rows(data, split)
    check_stdout()
    if predictions:
        check_file(predictions, [data, *(row.clip for row in rows if row.clip)])
    outcomes: list[Result | str] = []  # of each row; an error as a sentence
    progress = Progress(len(rows), quiet)

    def save() -> str | None:
        progress.clear()
        if not predictions or not outcomes:
            return None
        write_file(predictions, predictions_csv(rows[: len(outcomes)], outcomes))
        return f"The predictions of {len(outcomes)} of {len(rows)} rows were written."

    with (
        saved_if_cut_short(save),
        open_analyzer(bundle, device, threads, quiet, require_signature, limits) as analyzer,
    ):
        for row in rows:
            progress.start(row.id)
            try:
                outcomes.append(score_row(analyzer, row, modalities))
            except Exception as error:
                if not concerns_one_input(error, context):
                    raise  # it would meet every row
                outcomes.append(describe(error))
                progress.clear()
                say(f"error: {data}, line {row.line}, {row.id}: {outcomes[-1]}")
    scored = [
        (outcome.score, row.label) for row, outcome in zip(rows, outcomes, strict=True) if isinstance(outcome, Result)
    ]
    scores, labels = zip(*scored, strict=True) if scored else ((), ())
    failed = len(rows) - len(scored)
    try:
        write_stdout(json.dumps({**evaluate_scores(scores, labels), "failed": failed}, indent=2) + "\n")
    finally:  # neither is lost because the other cannot be written
        save()
    return 1 if failed else 0


def score_row(analyzer: Analyzer, row: Row, modalities: tuple[str, ...]) -> Result:
    """Score one row as one utterance. Raises InputError where it has nothing in these modalities."""
    text = row.text if "text" in modalities else None
    if row.clip is None and text is None:
        raise InputError(f"the row has nothing for the modalities {', '.join(modalities)}; fill in clip or text.")
    return analyzer(row.clip, text=text, modalities=modalities, whole=True)


def predictions_csv(rows: list[Row], outcomes: list[Result | str]) -> str:
    """A line for each row, in its order. Ids stay as they came, unless a spreadsheet would run them."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(PREDICTION_COLUMNS)
    for row, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, Result):
            confidence = outcome.segments[0].confidence  # the row is one utterance
            writer.writerow([id_cell(row.id), row.label, f"{outcome.score:.6f}", f"{confidence:.6f}", ""])
        else:
            writer.writerow([id_cell(row.id), row.label, "", "", csv_cell(outcome)])
    return table.getvalue()
