"""Faces for the expression net: each picture as the runtime's face path crops it, and as it came.

`python -m psamf_edge.compile.expression.data --faces DIR --cache DIR` writes one .npz for each archive into
the cache, with

    raw      (N, 48, 48) uint8   the picture
    aligned  (N, 48, 48) uint8   `FaceTracker`'s crop; the picture itself where no face was found
    found    (N,) bool           whether one was found
    labels   (N,) int64          index into EXPRESSIONS
    held_out (N,) bool           for validation: all of fer2013_valid, every tenth subject of ckplus48

in the order of the archive, without the pictures of CK+'s contempt, which FER2013 has no class for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from psamf_edge.compile.files import save_arrays
from psamf_edge.errors import UsageError
from psamf_edge.face.detector import FaceDetector
from psamf_edge.face.expression import EXPRESSIONS
from psamf_edge.face.mesh import FaceMesh
from psamf_edge.face.tracker import FaceTracker

ARCHIVES = ("fer2013_train", "fer2013_valid", "ckplus48")
SYNONYMS = {"anger": "angry", "sadness": "sad"}  # CK+'s names
LEFT_OUT = "contempt"
HELD_OUT_SUBJECTS = 10  # one CK+ subject in this many: about 12 people
FACE_MODELS = Path(__file__).parents[1] / "weights" / "default"


@dataclass(frozen=True)
class Faces:
    """The arrays of one cache file; see the module."""

    raw: np.ndarray
    aligned: np.ndarray
    found: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, rows: np.ndarray) -> Faces:
        """Some of the pictures. rows: (N,) bool, or indices."""
        return Faces(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def concatenate(parts: list[Faces]) -> Faces:
    """All pictures of several sets."""
    return Faces(*(np.concatenate([getattr(part, name) for part in parts]) for name in Faces.__dataclass_fields__))


def load(cache: Path, name: str) -> Faces:
    """The cache file of one archive.

    Raises:
        UsageError: it is not there.
    """
    path = cache / f"{name}.npz"
    if not path.is_file():
        raise UsageError(f"{path} is missing; write it with `python -m psamf_edge.compile.expression.data`.")
    stored = np.load(path, allow_pickle=False)
    return Faces(**{field: stored[field] for field in Faces.__dataclass_fields__})


def read_archive(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures (N, 48, 48) uint8, labels (N,) in the order of EXPRESSIONS, held_out (N,) bool, without LEFT_OUT.

    Raises:
        UsageError: the archive has a class that is neither in EXPRESSIONS nor a synonym of one.
    """
    stored = np.load(path, allow_pickle=False)
    names = [SYNONYMS.get(name, name) for name in stored["classes"].tolist()]
    unknown = sorted(set(names) - {*EXPRESSIONS, LEFT_OUT})
    if unknown:
        raise UsageError(f"{path} has the classes {', '.join(unknown)}; known are {', '.join(EXPRESSIONS)}.")
    to_label = np.array([-1 if name == LEFT_OUT else EXPRESSIONS.index(name) for name in names])  # (classes,)
    labels = to_label[stored["labels"]]  # (N,)
    held_out = np.full(len(labels), path.stem.endswith("valid"))
    if "subject" in stored:
        _, person = np.unique(stored["subject"], return_inverse=True)  # (N,)
        held_out = person % HELD_OUT_SUBJECTS == 0
    kept = labels >= 0
    return stored["images"][kept], labels[kept], held_out[kept]


def align_all(images: np.ndarray, tracker: FaceTracker) -> tuple[np.ndarray, np.ndarray]:
    """Each picture's crop (N, 48, 48) uint8 as a clip of one frame would get it, and found (N,) bool."""
    aligned, found = images.copy(), np.zeros(len(images), bool)
    for i, image in enumerate(tqdm(images, desc="aligning", unit="face", mininterval=5)):
        tracker.start()
        seen = tracker.observe(np.repeat(image[:, :, None], 3, axis=2), 0)
        if seen is not None and not seen.degraded:
            aligned[i], found[i] = seen.crop, True
    return aligned, found


@click.command()
@click.option("--faces", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of the archives.")
@click.option("--cache", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def main(faces: Path, cache: Path) -> None:
    """Crop every picture once, through the runtime's own face path."""
    tracker = FaceTracker(
        FaceDetector((FACE_MODELS / "face_detector.onnx").read_bytes()),
        FaceMesh((FACE_MODELS / "face_mesh.onnx").read_bytes()),
    )
    cache.mkdir(parents=True, exist_ok=True)
    for name in ARCHIVES:
        images, labels, held_out = read_archive(faces / f"{name}.npz")
        aligned, found = align_all(images, tracker)
        path = cache / f"{name}.npz"
        save_arrays(path, raw=images, aligned=aligned, found=found, labels=labels, held_out=held_out)
        click.echo(f"{name}: {len(images)} pictures, face found in {found.mean():.1%}", err=True)


if __name__ == "__main__":
    main()
