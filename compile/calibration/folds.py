"""Who is held out together: the sentences of a video, the recordings of a speaker, and each picture by itself.

A confidence that was fitted on other sentences of the same video, or on other recordings of the same voice, looks
better than it is for people whom nobody has met. Who is in a picture FER2013 does not say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.compile.data.faces import FaceSet
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.data.valence import VALENCE, side_of
from psamf_edge.errors import UsageError


@dataclass(frozen=True)
class Folds:
    """The fold, from 0 to count - 1, of each sentence of each set, of each recording and of each picture."""

    count: int
    texts: list[np.ndarray]  # (N,) each
    voices: np.ndarray  # (N,)
    faces: np.ndarray  # (N,)


def deal(groups: np.ndarray, kinds: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold (N,) of each sample: groups (N,) stay together, and each of the kinds (N,) is spread evenly.

    Kind by kind the largest group comes first, and goes where least of its kind is, or least at all among those. The
    kind of a group is that of its first sample. With fewer groups than folds, some folds get nothing.
    """
    _, first, own, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    names, kind = np.unique(kinds[first], return_inverse=True)  # kind (G,)
    order = rng.permutation(len(sizes))
    order = order[np.lexsort((-sizes[order], kind[order]))]
    fold, held = np.empty(len(sizes), int), np.zeros((folds, len(names)), int)
    for group in order:
        of_kind = held[:, kind[group]]  # (folds,)
        fold[group] = np.lexsort((held.sum(axis=1), of_kind))[0]
        held[fold[group], kind[group]] += sizes[group]
    return fold[own]


def deal_corpora(texts: list[TextSet], speech: SpeechSet, faces: FaceSet, folds: int) -> Folds:
    """The most folds up to `folds`, at least two, in each of which something can be composed.

    That takes voices and faces on every side of valence; six speakers may not make five such folds. A set of few videos
    may be missing from some folds.

    Raises:
        UsageError: the voices or the faces do not make two such folds.
    """
    for count in range(folds, 1, -1):
        rng = np.random.default_rng(0)
        voices = deal(speech.speakers, speech.corpora, count, rng)
        pictures = deal(np.arange(len(faces)), faces.emotions, count, rng)
        sides = {"voices": _sides(speech.emotions, voices), "faces": _sides(faces.emotions, pictures)}
        lacking = [what for what, found in sides.items() if len(found) < 3 * count]
        if not lacking:
            return Folds(count, [deal(t.groups, np.zeros(len(t)), count, rng) for t in texts], voices, pictures)
    raise UsageError(
        f"The validation {' and '.join(lacking)} are too few: each of at least 2 folds needs a negative, a neutral and "
        "a positive one, and all recordings of a speaker are in one fold."
    )


def _sides(emotions: np.ndarray, fold: np.ndarray) -> set[tuple[int, int]]:
    """Every fold with every side of valence that it has, of emotions (N,) in the folds (N,)."""
    return {(int(k), side_of(VALENCE[str(emotion)])) for k, emotion in zip(fold, emotions, strict=True)}
