"""Still faces with an emotion, as one face-feature vector each, computed by the runtime's own face path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from psamf_edge.compile.expression.data import SYNONYMS
from psamf_edge.compile.files import save_arrays
from psamf_edge.errors import UsageError
from psamf_edge.face.features import VISION_FEATURES, FacePath


@dataclass(frozen=True)
class FaceSet:
    """Face features, one vector (F,) a picture."""

    features: np.ndarray  # (N, F) float32
    emotions: np.ndarray  # (N,) str
    found: np.ndarray  # (N,) bool: the mesh was found, not only a crop taken

    def __len__(self) -> int:
        return len(self.features)


def load_faces(archive: Path, face_path: FacePath, cache: Path) -> FaceSet:
    """Features of every picture in an .npz with images (N,48,48) uint8, labels and classes, kept in `cache`.

    Pictures in which no face is found are left out. A cache knows its archive by the hash, if it is not of an older
    version; the archive may be gone then.

    Raises:
        UsageError: the cache was made from another archive or with other features; or there is neither a cache nor an
            archive with a face in it.
    """
    digest = hashlib.sha256(archive.read_bytes()).hexdigest() if archive.is_file() else None
    if not cache.is_file():
        if digest is None:
            raise UsageError(f"There is no file {archive}; give a folder of data that has it.")
        raw = np.load(archive, allow_pickle=False)
        vectors, emotions, found = [], [], []
        mesh_found = [f.name for f in VISION_FEATURES].index("mesh_found")
        for image, label in zip(tqdm(raw["images"], desc="face features"), raw["labels"], strict=True):
            face_path.start()
            face_path.observe(np.repeat(image[:, :, None], 3, axis=2), 0)
            values = face_path.features(0, 1).values  # (0 or 1, F)
            if len(values):
                vectors.append(values[0])
                name = str(raw["classes"][label])
                emotions.append(SYNONYMS.get(name, name))
                found.append(values[0, mesh_found] > 0.5)
        if not vectors:
            raise UsageError(f"No face was found in the pictures of {archive}; give other pictures.")
        names = [f.name for f in VISION_FEATURES]
        save_arrays(
            cache, features=np.stack(vectors), emotions=emotions, found=found, names=names, archive=np.array(digest)
        )
    stored = np.load(cache, allow_pickle=False)
    other_archive = digest is not None and "archive" in stored and str(stored["archive"]) != digest
    if other_archive or list(stored["names"]) != [f.name for f in VISION_FEATURES]:
        raise UsageError(f"The cache {cache} was made from other pictures or features; delete it and run again.")
    return FaceSet(stored["features"].astype(np.float32), stored["emotions"], stored["found"])
