"""`psamf-edge extract`: features of labelled clips for training, here and with MMSA, and of MMSA's files."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psamf_edge.cli.files import check_file
from psamf_edge.cli.group import say
from psamf_edge.cli.options import limit_option
from psamf_edge.cli.streams import write_stdout
from psamf_edge.compile.data.feature_file import SPLITS, load_features, read_header, save_features
from psamf_edge.compile.data.mmsa import read_mmsa, write_mmsa
from psamf_edge.compile.lock import take_lock
from psamf_edge.errors import InputError, UsageError

if TYPE_CHECKING:
    from psamf_edge.compile.extraction.extract import Extraction
    from psamf_edge.compile.extraction.labels import LabelledClip

SAFE, PICKLE = ".npz", ".pkl"


@click.command("extract")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
    help="The file to write: OUT.npz, or OUT.pkl for MMSA.",
)  # fmt: skip
@click.option(
    "--clips", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the clips, VIDEO/CLIP.mp4.  [default: Raw beside the label file]",
)  # fmt: skip
@click.option(
    "--bundle", type=click.Path(path_type=Path),
    help="Whose vocabulary and face models to use.  [default: the one that comes with psamf-edge]",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Clips to extract at a time.  [default: 1]")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")
@limit_option
def command(
    source: Path,
    out: Path,
    clips: Path | None,
    bundle: Path | None,
    jobs: int | None,
    quiet: bool,
    limits: dict[str, int],
) -> int:
    """Turn labelled clips into features, or one kind of feature file into the other.

    SOURCE is a CSV label file (video_id and clip_id, or id; text; label; mode or split; maybe clip, a path) or a
    feature file: MMSA's .pkl, which becomes an .npz, or such an .npz, which becomes a .pkl. A pickle is read as data;
    one that asks for anything else is refused. Clips that are done are kept in OUT.parts until all are: run again to go
    on. What was found is printed as JSON; clips that cannot be read are named on stderr and left out.
    """
    _check(source, out, of_clips={"--clips": clips, "--bundle": bundle, "--jobs": jobs, "--limit": limits})
    if source.suffix in (SAFE, PICKLE):
        report, failures = _convert(source, out), []
    else:
        report, failures = _extract(source, out, clips, bundle, jobs or 1, quiet, limits)
    write_stdout(json.dumps(report, indent=2) + "\n")
    for failure in failures:
        say(f"error: {source}, {failure}")
    missing = [split for split in SPLITS if split not in report["splits"]]
    if out.suffix == PICKLE and missing and not quiet:
        say(f"MMSA's own loader wants train, valid and test; {out} lacks {', '.join(missing)}")
    return 1 if failures else 0


def _check(source: Path, out: Path, of_clips: dict[str, Any]) -> None:
    """of_clips: the values of the options that say how clips are read, by name."""
    if not source.is_file():
        raise UsageError(f"There is no file {source}; give a label file, an {SAFE} or a {PICKLE}.")
    if out.suffix not in (SAFE, PICKLE):
        raise UsageError(f"The name {out.name} must end in {SAFE} or, for MMSA, in {PICKLE}.")
    check_file(out, [source])
    if source.suffix in (SAFE, PICKLE):
        if source.suffix == out.suffix:
            raise UsageError(f"{source} is a {source.suffix} already; a {SAFE} becomes a {PICKLE}, and the reverse.")
        if given := [name for name, value in of_clips.items() if value]:
            raise UsageError(f"Leave out what is for label files, {', '.join(given)}: a feature file has no clips.")


def _convert(source: Path, out: Path) -> dict[str, Any]:
    if source.suffix == PICKLE:
        file = read_mmsa(source)
        save_features(out, file.sets, file.report)
        return {"splits": {split: len(clips) for split, clips in file.sets.items()}, **file.report}
    splits = read_header(source)["splits"]
    write_mmsa(out, {split: load_features(source, split) for split in splits})
    return {"splits": splits}


def _extract(
    source: Path,
    out: Path,
    clips: Path | None,
    bundle: Path | None,
    jobs: int,
    quiet: bool,
    limits: dict[str, int],
) -> tuple[dict[str, Any], list[str]]:
    # Not at the top: ONNX Runtime is not needed to convert.
    from psamf_edge.compile.extraction.extract import remove_parts
    from psamf_edge.compile.extraction.labels import read_labels

    rows = read_labels(source, clips)
    parts = out.with_name(out.name + ".parts")
    with take_lock(parts, out):
        done = _extract_all(rows, parts, bundle, jobs, quiet, limits)
        if not done.sets:
            for failure in done.failures:
                say(f"error: {source}, {failure}")
            raise InputError(f"None of the {len(rows)} clips of {source} could be read; {out} was not written.")
        whole = parts / f"whole{out.suffix}"  # not beside the output: a kill would leave half a file there
        if out.suffix == SAFE:
            save_features(whole, done.sets, done.about)
        else:
            write_mmsa(whole, done.sets)
        os.replace(whole, out)
        if not done.failures:
            remove_parts(parts)
    splits = {split: len(clips) for split, clips in done.sets.items()}
    return {"splits": splits, "failed": len(done.failures), "remarks": done.about["remarks"]}, done.failures


def _extract_all(
    rows: list[LabelledClip], parts: Path, bundle: Path | None, jobs: int, quiet: bool, limits: dict[str, int]
) -> Extraction:
    from psamf_edge.compile.extraction.extract import extract_clips

    shown = sys.stderr.isatty() and not quiet
    with click.progressbar(length=len(rows), show_pos=True, file=sys.stderr if shown else io.StringIO()) as bar:
        return extract_clips(rows, parts, bundle, jobs, lambda: bar.update(1), limits)
