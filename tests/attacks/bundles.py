"""Bundles in the hands of an attacker, who may change every file and make the manifest fit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from psamf_edge.bundle import DEFAULT_BUNDLE, MANIFEST, SCHEMA

SHAPES = {
    "hidden": 4, "width": 4, "vocabulary": 100, "audio_features": 63, "face_features": 69, "audio_stride": 8,
    "face_stride": 1, "audio_hop_ms": 10, "face_rate": 10, "max_tokens": 16, "max_audio_hops": 100,
    "max_face_frames": 10,
}  # fmt: skip


def copy_default(folder: Path) -> Path:
    """The bundle that ships, where it may be spoilt."""
    return Path(shutil.copytree(DEFAULT_BUNDLE, folder / "copy.psamf"))


def reseal(bundle: Path) -> None:
    """Sizes and hashes of the files as they lie there now: what nobody can tell from an honest bundle without a key."""

    def measure(manifest: dict) -> None:
        for name, entry in manifest["files"].items():
            data = (bundle / name).read_bytes()
            entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}

    rewrite(bundle, measure)


def rewrite(bundle: Path, change: Callable[[dict], None]) -> None:
    """Change the manifest in place."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def write_small(path: Path, model: bytes = b"", text: str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n") -> Path:
    """A bundle of one segment, from words to score, and a vocabulary."""
    files = {"all.onnx": model, "vocab.txt": text.encode()}
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    plan = [{"name": "all", "file": "all.onnx", "inputs": ["ids"], "outputs": ["score", "log_scale"]}]
    manifest = {
        "schema": SCHEMA, "name": "small", "target": "cpu", "precision": "fp32", "plan": plan, "shapes": SHAPES,
        "files": {name: {"sha256": "", "size": 0} for name in files}, "provenance": {}, "metrics": {},
        "licence": "Apache-2.0",
    }  # fmt: skip
    (path / MANIFEST).write_text(json.dumps(manifest))
    reseal(path)
    return path
