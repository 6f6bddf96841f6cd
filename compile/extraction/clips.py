"""One clip to its voice and face features: the runtime's own steps, up to where the model would begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psamf_edge.audio.features import AUDIO_FEATURES
from psamf_edge.bundle import open_bundle
from psamf_edge.clip import Stopwatch, read_clip
from psamf_edge.compile.data.arrays import ArrayFile, json_array, write_arrays
from psamf_edge.face.features import VISION_FEATURES, FacePath
from psamf_edge.features import Feature
from psamf_edge.media.limits import Limits
from psamf_edge.media.reader import MediaReader
from psamf_edge.modalities import ABSENT, Part, audio_part, face_part
from psamf_edge.words.silence import speech_spans
from psamf_edge.words.utterances import Utterance


@dataclass(frozen=True)
class ClipFeatures:
    """audio: (T, 63) float32 at 10 ms; vision: (Tv, 69), a row for each frame with a face; no rows where there is none.
    remarks: what was amiss, a sentence each.
    """

    audio: np.ndarray
    vision: np.ndarray
    remarks: list[str]

    def save(self, path: Path) -> None:
        """Write them, whole or not at all. Raises OSError."""
        write_arrays(path, {"audio": self.audio, "vision": self.vision, "remarks": json_array(self.remarks)})

    @classmethod
    def load(cls, path: Path) -> ClipFeatures:
        """Read what `save` wrote. Raises InputError."""
        with ArrayFile(path) as file:
            return cls(file.read("audio", np.float32, 2), file.read("vision", np.float32, 2), file.json("remarks"))


class ClipExtractor:
    """A decoder child and the face models of a bundle (None: the one that ships with psamf-edge).

    Raises:
        UsageError: no such bundle.
        IntegrityError: a file of the bundle is damaged.
    """

    def __init__(self, bundle: Path | None = None, limits: Mapping[str, int] | None = None) -> None:
        opened = open_bundle(bundle)
        self._shapes = opened.shapes
        self._face = FacePath.open(opened.read)
        self._reader = MediaReader(Limits.of(limits))

    def extract(self, path: Path) -> ClipFeatures:
        """The features of a clip as one utterance, as long as the model takes.

        Raises:
            InputError: the clip cannot be read.
        """
        shapes = self._shapes
        clip = read_clip(self._reader, path, self._face, True, shapes.face_rate, Stopwatch())
        whole = Utterance(0, clip.duration_ms)
        audio = face = ABSENT
        if clip.has_audio:
            audio = audio_part(clip.samples, speech_spans(clip.samples), whole, shapes.max_audio_hops)
        if clip.has_video:
            seen = self._face.features(0, max(clip.duration_ms, 1))  # a still image lasts 0 ms, with a frame at 0
            face = face_part(seen, shapes.max_face_frames)
        remarks = [*clip.warnings, *(f"{reason}." for reason in audio.reasons + face.reasons)]
        has = {"sound": clip.has_audio, "pictures": clip.has_video}
        remarks += [f"The clip has no {what}." for what, there in has.items() if not there]
        return ClipFeatures(_rows(audio, AUDIO_FEATURES), _rows(face, VISION_FEATURES), remarks)

    def close(self) -> None:
        """End the decoder child."""
        self._reader.close()


def _rows(part: Part, features: tuple[Feature, ...]) -> np.ndarray:
    return np.empty((0, len(features)), np.float32) if part.values is None else part.values
