"""A compile that was killed after its bundle got its name, and before its work was cleared away.

The same call again then finds the bundle there, and must not take it for somebody's that it may not replace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psamf_edge.bundle import MANIFEST, Bundle, EngineOrigin, open_bundle
from psamf_edge.compile.quality.bounds import Quality
from psamf_edge.compile.source import Source
from psamf_edge.compile.work import Work, digest_of, folder_of, packed


def was_packed(output: Path) -> bool:
    """Whether the bundle at `output` is the one that the work folder beside it was for."""
    try:
        return packed(folder_of(output)).get("output") == hashlib.sha256((output / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return False


def call_digest(
    key: Mapping[str, Any],
    source: Source,
    how: tuple[str, str, str | None],
    name: str,
    quality: Quality,
    engines: EngineOrigin | None,
) -> str:
    """SHA-256 of all that a bundle depends on. key: of the exports; how: target, precision and fusion."""
    from psamf_edge.compile.quality.validation_set import data_digest

    data = [None if path is None else data_digest(path) for path in (quality.validate, quality.calibrate)]
    return digest_of(
        {
            **key,
            "how": how,
            "name": name,
            "files": {file: hashlib.sha256(content).hexdigest() for file, content in source.files.items()},
            "said": [source.provenance, dict(source.metrics), source.licence],
            "quality": [asdict(quality.bounds), quality.mixed, data],
            "engines": None if engines is None else asdict(engines),
        }
    )


def finished(work: Work, output: Path, call: str) -> Bundle | None:
    """The bundle that this very call has made before, verified; None if there is none."""
    if not was_packed(output) or work.packed["call"] != call:
        return None
    bundle = open_bundle(output)
    bundle.verify()
    return bundle
