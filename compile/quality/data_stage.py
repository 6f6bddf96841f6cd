"""Reading utterances as a stage of a compile: those to judge a precision with, and those to calibrate it on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psamf_edge
from psamf_edge.compile.quality.check_set import NAME, Sample, check_set
from psamf_edge.compile.quality.sample_files import samples_from_files, samples_to_files
from psamf_edge.compile.source import Source
from psamf_edge.compile.work import Work

FAILED = "failed.json"
Log = Callable[[str], None]


@dataclass(frozen=True)
class DataRecord:
    """What a model was checked with, or calibrated on. failed: rows of the file that could not be read and are not
    among the n.
    """

    name: str
    sha256: str
    n: int
    labelled: int
    failed: int = 0

    @property
    def left_out(self) -> str:
        """What to add to a sentence that says how many samples there were."""
        return f", {self.failed} row{'s' * (self.failed > 1)} could not be used" if self.failed else ""


def read_data(
    work: Work, stage: tuple[str, str], source: Source, path: Path | None, log: Log, most: int | None = None
) -> tuple[list[Sample], DataRecord]:
    """The samples of a file, or of the check set.

    Args:
        work: keeps the features.
        stage: its title and name.
        source: the model, whose vocabulary and face models make the features.
        path: a CSV file as `psamf-edge evaluate` takes it; None: the check set.
        log: takes lines.
        most: rows to read, evenly from the whole file; None: all.
    """
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(source.files.items())}
    key = {"psamf_edge": psamf_edge.__version__, "files": hashes, "shapes": asdict(source.shapes), "most": most}
    if path is None:
        name = NAME

        def make() -> dict[str, bytes]:
            return {**samples_to_files(check_set(source.files["vocab.txt"], source.shapes)), FAILED: b"0"}

    else:
        from psamf_edge.compile.quality.validation_set import data_digest, read_samples

        name, key["data"] = path.name, data_digest(path)

        def make() -> dict[str, bytes]:
            samples, failed = read_samples(path, source.files, source.shapes, log, most)
            return {**samples_to_files(samples), FAILED: str(failed).encode()}

    title, folder = stage
    files = work.once(title, folder, {**key, "name": name}, make)
    samples = samples_from_files(files)
    # of the features and labels themselves; of a file with clips this is not the hash of the file
    sha256 = key.get("data") or hashlib.sha256(files["samples.npz"] + files["samples.json"]).hexdigest()
    labelled = sum(sample.label is not None for sample in samples)
    return samples, DataRecord(name, sha256, len(samples), labelled, int(files[FAILED]))
