"""The bundle: whole, unchanged, and of a target that this machine can run; and where engines built here are kept."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from psamf_edge.bundle import open_bundle
from psamf_edge.doctor.finding import BROKEN, MISSING, NOTE, OK, Finding
from psamf_edge.engine_cache import VARIABLE, EngineCache, default_root
from psamf_edge.errors import PsamfError

GROUP = "bundle"


def bundle_findings(path: Path | None) -> list[Finding]:
    """Every file of the bundle against its hash, and what runs its engines."""
    mend = "compile it anew (psamf-edge compile), or install psamf-edge again from where it came (the default one)"
    try:
        bundle = open_bundle(path)
        for name in bundle.files:
            bundle.read(name)
    except (PsamfError, OSError) as error:
        return [Finding(GROUP, "files", BROKEN, str(error), mend)]
    size = sum(entry.size for entry in bundle.files.values()) / 1e6
    what = f"{bundle.name}, {bundle.target} {bundle.precision}, {len(bundle.files)} files, {size:.1f} MB"
    findings = [Finding(GROUP, "files", OK, f"{what}; manifest SHA-256 {bundle.manifest_sha256}")]
    engines = bundle.engines
    if engines is not None and importlib.util.find_spec(engines.flavour) is None:
        extra = {"tensorrt_rtx": "rtx"}.get(engines.flavour, "tensorrt")
        findings.append(Finding(
            GROUP, "engines", MISSING, f"built by {engines.flavour} {engines.version}, which is not installed here",
            f"pip install 'psamf-edge[{extra}]'", "running this bundle on the GPU",
        ))  # fmt: skip
    return findings


def cache_finding() -> Finding:
    """The folder of the engines that are built here, which need not be there yet, and whether it can be used."""
    mend = f"export {VARIABLE}=FOLDER, one of this user's own: without it engines are built anew each time"
    try:
        root = default_root()
    except RuntimeError as error:
        return Finding(GROUP, "engine cache", NOTE, str(error), mend)
    # os.path and os.walk, not pathlib: a home that this user may not enter is a finding, no error.
    there = next((folder for folder in (root, *root.parents) if os.path.exists(folder)), root)
    sizes = list(_sizes(root))
    detail = f"{root}, {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"
    if not os.access(there, os.W_OK):
        return Finding(GROUP, "engine cache", NOTE, f"{detail}; it cannot be written", mend)
    if there == root:
        cache = EngineCache(root)
        if cache.problem is not None:
            return Finding(GROUP, "engine cache", NOTE, cache.problem, mend)
        if refused := cache.refused():
            detail = f"{detail}; {len(refused)} will be built again when needed: {refused[0]}"
            return Finding(
                GROUP, "engine cache", NOTE, detail, f"rm -r '{root / 'engines'}', or leave it to the next run"
            )
    return Finding(GROUP, "engine cache", OK, detail)


def _sizes(root: Path) -> Iterator[int]:
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process builds, and renames or removes
                yield os.stat(f"{folder}/{name}").st_size
