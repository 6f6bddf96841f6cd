"""A label file's clips to sets of features: what was extracted before is kept in parts, one file a clip."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psamf_edge import __version__
from psamf_edge.audio.features import AUDIO_FEATURES, HOP_MS
from psamf_edge.bundle import Bundle, open_bundle
from psamf_edge.compile.data.feature_file import SPLITS, MmsaSet
from psamf_edge.compile.extraction.clips import ClipFeatures
from psamf_edge.compile.extraction.labels import LabelledClip
from psamf_edge.compile.extraction.workers import Workers
from psamf_edge.compile.lock import LOCK
from psamf_edge.errors import InputError
from psamf_edge.face.features import VISION_FEATURES
from psamf_edge.media.limits import Limits
from psamf_edge.words.wordpiece import WordPiece

TEXT_TOKENS = 50  # L of MMSA's files; it cuts 7 % of the sentences of MOSEI, 0.5 % of those of MOSI


@dataclass(frozen=True)
class Extraction:
    """sets: by split, of the clips that could be read. about: how they were made, and what was amiss with how many.

    failures: a sentence for each clip that could not be read.
    """

    sets: dict[str, MmsaSet]
    about: dict[str, Any]
    failures: list[str]


def extract_clips(
    rows: Sequence[LabelledClip],
    parts: Path,
    bundle: Path | None = None,
    jobs: int = 1,
    on_row: Callable[[], None] = lambda: None,
    limits: Mapping[str, int] | None = None,
) -> Extraction:
    """Extract every clip that has no part yet, then put all parts together.

    Args:
        rows: of the label file.
        parts: the folder of the parts. A part belongs to a clip's path, size and time of change, and to
            a bundle, so that it is never taken for another's.
        bundle: whose vocabulary and face models to use.
        jobs: processes.
        on_row: called for each row once its clip is done.
        limits: as for Analyzer.

    Raises:
        UsageError, IntegrityError: no such bundle, or a damaged one.
    """
    opened = open_bundle(bundle)
    places: dict[str, Path] = {}
    failures: dict[str, str] = {}

    rows_of: dict[Path, list[LabelledClip]] = {}  # several rows may share a clip: two workers must not write one part
    for row in rows:
        rows_of.setdefault(row.clip.absolute(), []).append(row)

    def work(sharing: list[LabelledClip]) -> None:
        clip = sharing[0].clip
        try:
            part = parts / part_name(clip, opened, Limits.of(limits))
            if not part.exists():
                workers.extract(clip, part)
            places.update((row.id, part) for row in sharing)
        except InputError as error:
            failures.update((row.id, f"line {row.line}, {row.id}: {error}") for row in sharing)

    with Workers(bundle, jobs, limits) as workers, ThreadPoolExecutor(jobs) as threads:
        futures = {threads.submit(work, sharing): sharing for sharing in rows_of.values()}
        try:
            for future in as_completed(futures):
                future.result()
                for _ in futures[future]:
                    on_row()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            workers.stop()
            raise
    sets, remarks = _assemble(rows, places, WordPiece(opened.read("vocab.txt")))
    about = {
        "psamf_edge": __version__,
        "bundle": {"name": opened.name, "sha256": opened.manifest_sha256},
        "audio": {"features": [f.name for f in AUDIO_FEATURES], "step_ms": HOP_MS},
        "vision": {"features": [f.name for f in VISION_FEATURES], "rate": opened.shapes.face_rate},
        "remarks": remarks,
    }
    return Extraction(sets, about, [failures[row.id] for row in rows if row.id in failures])


def part_name(clip: Path, bundle: Bundle, limits: Limits) -> str:
    """The name of a clip's part. Raises InputError if there is no such clip."""
    try:
        found = clip.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"{clip} cannot be read ({getattr(error, 'strerror', error)}); check the path.") from error
    key = [__version__, bundle.manifest_sha256, str(clip.absolute()), found.st_size, found.st_mtime_ns, asdict(limits)]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] + ".npz"


def remove_parts(parts: Path) -> None:
    """Take the folder away, unless somebody else put something into it."""
    patterns = ("*.npz", "*.npz.new", "*.pkl.new")  # the new ones are of runs that were killed, see files.atomic
    for part in (*(path for pattern in patterns for path in parts.glob(pattern)), parts / LOCK):
        part.unlink(missing_ok=True)
    with suppress(OSError):
        parts.rmdir()


def _assemble(
    rows: Sequence[LabelledClip], places: dict[str, Path], wordpiece: WordPiece
) -> tuple[dict[str, MmsaSet], dict[str, int]]:
    remarks: Counter[str] = Counter()
    sets = {}
    for split in SPLITS:
        chosen = [row for row in rows if row.split == split and row.id in places]
        if not chosen:
            continue
        clips = [ClipFeatures.load(places[row.id]) for row in chosen]
        remarks.update(remark for clip in clips for remark in clip.remarks)
        text_ids = np.full((len(chosen), TEXT_TOKENS), wordpiece.pad_id, np.int64)
        text_mask = np.zeros((len(chosen), TEXT_TOKENS), np.float32)
        for index, row in enumerate(chosen):
            encoded = wordpiece.encode(row.text, TEXT_TOKENS)
            remarks[f"The text is longer than {TEXT_TOKENS} tokens, and its end was left out."] += encoded.truncated
            text_ids[index, : len(encoded.ids)] = encoded.ids
            text_mask[index, : len(encoded.ids)] = 1.0
        sets[split] = MmsaSet(
            ids=[row.id for row in chosen],
            raw_text=[row.text for row in chosen],
            text_ids=text_ids,
            text_mask=text_mask,
            audio=[clip.audio for clip in clips],
            vision=[clip.vision for clip in clips],
            labels=np.array([row.label for row in chosen], np.float32),
        )
    return sets, dict(sorted((+remarks).items()))
