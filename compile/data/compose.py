"""Composition: a real sentence, an acted voice and a photographed face made into one training sample.

No corpus at hand has words, voice and face of the same moment with a label. So a text sample is paired with a speech
and a face sample of the same side of valence (or a neutral, a conflicting, or an independent one, at the rates below).
Every trimodal number that this package reports rests on this construction, and says so.

The label of a composed sample, for each subset of modalities:

- one modality alone: its own label (the annotated one of a sentence, the valence of an emotion);
- modalities that agree, or where the others are neutral: the label of the first of text, audio, face;
- modalities that conflict: their mean, weighted by EVIDENCE.
"""

from __future__ import annotations

import numpy as np

from psamf_edge.compile.data.faces import FaceSet
from psamf_edge.compile.data.padding import pad
from psamf_edge.compile.data.samples import Batch, Statistics
from psamf_edge.compile.data.speech import SpeechSet
from psamf_edge.compile.data.text import TextSet
from psamf_edge.compile.data.valence import VALENCE, side_of
from psamf_edge.compile.data.voice_augment import VoiceAugmenter
from psamf_edge.face.features import VISION_FEATURES

EVIDENCE = np.array(
    [0.6, 0.25, 0.15], np.float32
)  # text, audio, face: the order in which the field finds them to matter

# how the companions of a sentence are drawn
PAIRINGS = ("matching", "neutral", "conflicting", "independent")
PAIRING_RATES = (0.40, 0.15, 0.15, 0.30)

# of negative, neutral and positive companions drawn without regard to the words; the positive, which one emotion alone
# stands for, a little oftener than the negative: the voice of an unknown speaker is else too seldom heard as happy
SIDES = (-1, 0, 1)
SIDE_RATES = (0.37, 0.18, 0.45)

# voice: the share of utterances made of two recordings, since acted ones last three seconds and real ones up to fifteen
JOINED_SHARE = 0.3
# face: the share of still pictures (one frame); the rest become sequences of up to MAX_FRAMES frames
STILL_SHARE = 0.3
MAX_FRAMES = 60
# frame-to-frame wobble of a face in a video, as a share of each feature's spread over people
FRAME_NOISE = 0.15

# how the picture was framed, not what the face shows: FER2013's tight crops differ in these from any user's clip
FRAMING = ("head_roll", "face_size", "mesh_score")
FRAMED = np.array([feature.name in FRAMING for feature in VISION_FEATURES])  # (F,)


def combine(labels: np.ndarray, present: np.ndarray) -> float:
    """The label of a subset. labels (3,) of text, audio, face; present (3,) of 0 and 1, at least one set."""
    chosen = np.flatnonzero(present)
    sides = {side_of(labels[i]) for i in chosen} - {0}
    if len(sides) < 2:
        return float(next((labels[i] for i in chosen if side_of(labels[i])), labels[chosen[0]]))
    return float(np.average(labels[chosen], weights=EVIDENCE[chosen]))


class Composer:
    """Draws companions for sentences and makes batches. Deterministic for a given generator.

    Args:
        text: the sentences.
        speech: voices of this split.
        faces: faces of this split.
        rng: the source of all chance.
        augment: mask and crop the voices, vary the faces; off for validation.
    """

    def __init__(
        self, text: TextSet, speech: SpeechSet, faces: FaceSet, rng: np.random.Generator, augment: bool
    ) -> None:
        self.text, self.speech, self.faces, self.rng, self.augment = text, speech, faces, rng, augment
        self.augment_voice = VoiceAugmenter(rng)
        self.voices_by_side = self._by_side_then_emotion(speech.emotions)
        self.faces_by_side = self._by_side_then_emotion(faces.emotions)
        self.mean_voice = np.mean([x.mean(axis=0) for x in speech.features], axis=0)  # (63,)
        self.face_spread = faces.features.std(axis=0)  # (F,)

    @staticmethod
    def _by_side_then_emotion(emotions: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
        sides: dict[int, dict[str, np.ndarray]] = {-1: {}, 0: {}, 1: {}}
        for emotion in np.unique(emotions):
            sides[side_of(VALENCE[str(emotion)])][str(emotion)] = np.flatnonzero(emotions == emotion)
        return sides

    def draw_sides(self, text_side: int) -> tuple[int, int]:
        """The sides of the voice and of the face that accompany a sentence."""
        pairing = PAIRINGS[self.rng.choice(len(PAIRINGS), p=PAIRING_RATES)]
        if pairing == "matching":
            return text_side, text_side
        if pairing == "neutral":
            return 0, 0
        if pairing == "conflicting":
            against = -text_side or int(self.rng.choice([-1, 1]))
            # half of the conflicts come from both, a quarter from the voice or the face alone
            return [(against, against), (against, against), (against, text_side), (text_side, against)][
                self.rng.integers(4)
            ]
        # whatever the text: the voice and face branches must not inherit the text corpora's lean to the positive
        voice, face = self.rng.choice(SIDES, size=2, p=SIDE_RATES)
        return int(voice), int(face)

    def voice(self, side: int) -> tuple[np.ndarray, float]:
        """Voice features (T, 63) and valence: a recording on this side, in training blended with some other one."""
        features, valence = self._recording(side)
        if not self.augment:
            return features, valence
        other, other_valence = self._recording(int(self.rng.choice(SIDES, p=SIDE_RATES)))
        share = self.rng.uniform(0.5, 1.0)
        rest = np.tile(self.mean_voice, (len(features), 1))  # (T, 63): what the other is beyond its end
        rest[: len(other)] = other[: len(features)]
        return share * features + (1.0 - share) * rest, share * valence + (1.0 - share) * other_valence

    def _recording(self, side: int) -> tuple[np.ndarray, float]:
        """A random recording on this side; its emotions are drawn equally often."""
        emotions = self.voices_by_side[side]
        emotion = list(emotions)[self.rng.integers(len(emotions))]
        features = self.speech.features[self.rng.choice(emotions[emotion])]
        if self.augment:
            if self.rng.random() < JOINED_SHARE:
                features = np.concatenate([features, self.speech.features[self.rng.choice(emotions[emotion])]])
            features = self.augment_voice(features)
        return features, VALENCE[emotion]

    def face(self, side: int) -> tuple[np.ndarray, float]:
        """Face features (T, F) and valence: one picture, or up to three of one emotion spread over a sequence."""
        emotions = self.faces_by_side[side]
        emotion = list(emotions)[self.rng.integers(len(emotions))]
        if not self.augment or self.rng.random() < STILL_SHARE:
            return self.faces.features[self.rng.choice(emotions[emotion])][None], VALENCE[emotion]
        frames = self.rng.integers(2, MAX_FRAMES + 1)
        pictures = self.faces.features[self.rng.choice(emotions[emotion], size=self.rng.integers(1, 4))]  # (P, F)
        sequence = pictures[np.sort(self.rng.integers(0, len(pictures), frames))]  # (T, F)
        noise = self.rng.normal(0.0, FRAME_NOISE, sequence.shape) * self.face_spread
        return (sequence + noise).astype(np.float32), VALENCE[emotion]

    def batch(self, rows: np.ndarray, present: np.ndarray) -> Batch:
        """Compose the sentences `rows` (B,); present (B, S, 3) says which modalities each subset has."""
        voices, faces, labels = [], [], np.zeros(present.shape[:2], np.float32)
        for i, row in enumerate(rows):
            label = float(self.text.labels[row])
            voice_side, face_side = self.draw_sides(side_of(label))
            voice, voice_valence = self.voice(voice_side)
            face, face_valence = self.face(face_side)
            voices.append(voice)
            faces.append(face)
            all_labels = np.array([label, voice_valence, face_valence], np.float32)
            labels[i] = [combine(all_labels, subset) for subset in present[i]]
        return Batch(
            *pad([self.text.ids[row] for row in rows], np.int64),
            *pad(voices, np.float32),
            *pad(faces, np.float32),
            present,
            labels,
        )

    def statistics(self) -> tuple[Statistics, Statistics]:
        """Of the voices' features and of the faces'; the FRAMING features are not used."""
        voices, faces = np.concatenate(self.speech.features), self.faces.features  # (sum T, 63), (N, F)
        return (
            Statistics(voices.mean(axis=0), voices.std(axis=0)),
            Statistics(faces.mean(axis=0), faces.std(axis=0), FRAMED),
        )
