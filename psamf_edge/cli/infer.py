"""`psamf-edge infer`: a score for each clip, in the format asked for."""

from __future__ import annotations

from pathlib import Path

import click

from psamf_edge.cli.group import concerns_one_input, describe, say
from psamf_edge.cli.inputs import expand, words
from psamf_edge.cli.options import model_options, open_analyzer
from psamf_edge.cli.output import open_sink, saved_if_cut_short
from psamf_edge.cli.progress import Progress
from psamf_edge.report import FORMATS, summary_line


@click.command()
@click.argument("clips", nargs=-1, metavar="[CLIP]...")
@click.option(
    "-f",
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    help="[default: what the suffix of -o says, else json]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),  # as text: a slash at the end says that it is a folder
    help="File to write, or folder for a file a clip (CLIP.sentiment.FORMAT).  [default: stdout]",
)
@click.option("--text", help="What is said in the one CLIP; without a clip, the words to score.")
@click.option("--transcript", type=click.Path(path_type=Path), help="A .srt, .vtt or .txt file in place of --text.")
@click.option(
    "--asr",
    default="none",
    show_default=True,
    metavar="NAME",
    help="What recognises speech in clips without a transcript: none, auto, pocketsphinx or whisper:MODEL.",
)
@click.option("--whole", is_flag=True, help="Score each clip as one utterance.")
@model_options
@click.pass_context
def infer(
    context: click.Context,
    clips: tuple[str, ...],
    format_: str | None,
    output: str | None,
    text: str | None,
    transcript: Path | None,
    asr: str,
    whole: bool,
    modalities: tuple[str, ...],
    bundle: Path | None,
    require_signature: Path | None,
    device: str,
    threads: int,
    quiet: bool,
    limits: dict[str, int],
) -> int:
    """Score what is expressed in each CLIP, from -3 (negative) to 3 (positive).

    A CLIP is a video, audio or image file, a folder of them, or a quoted pattern such as 'talks/**/*.mp4'. Words are
    taken from --text, --transcript, a .srt, .vtt or .txt file of the same name beside the clip, or captions inside it.
    """
    found = expand(clips)
    words_given = text is not None or transcript is not None
    if words_given and len(found) > 1:
        raise click.UsageError(f"--text and --transcript belong to one clip, and there are {len(found)}.", context)
    if not clips and not words_given:
        raise click.UsageError("Name a clip, or give --text.", context)
    problems = [item for item in found if isinstance(item, str)]
    paths = [item for item in found if isinstance(item, Path)]
    for problem in problems:
        say(f"error: {problem}")
    if problems and not paths:
        return 1
    sink = open_sink(output, format_, paths, transcript)
    failed = len(problems)
    progress = Progress(len(paths) or 1, quiet)

    def save() -> str | None:
        progress.clear()
        count = sink.finish()
        return f"{count} of {len(paths)} clips were scored and written." if count else None

    with (
        saved_if_cut_short(save),
        open_analyzer(bundle, device, threads, quiet, require_signature, limits) as analyzer,
    ):
        for path in paths or [None]:
            progress.start(str(path or "text"))
            try:
                result = analyzer(
                    path,
                    text=words(text),
                    transcript=transcript,
                    modalities=modalities,
                    asr=asr,
                    whole=whole,
                    on_progress=progress.update,
                )
            except Exception as error:
                if not concerns_one_input(error, context):
                    raise  # it would meet every clip
                failed += 1
                progress.clear()
                say(f"error: {describe(error)}")
                continue
            progress.line(summary_line(result))
            for warning in result.warnings:
                progress.line(f"warning: {warning}")
            sink.add(result)
    sink.finish()
    return 1 if failed else 0
