"""The utterances that every compiled model is checked with where no validation data is given.

They have no labels: they show how far a lowered model strays from its float32 self, and not how good either is. Words
are our own; voices are synthetic sounds, described by the runtime's feature code, so that pitch, level and their
changes have the sizes that the model knows; faces are rows drawn around the means of real ones. Nothing is recorded
from anybody, and a seed makes the set the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psamf_edge.audio.features import SAMPLE_RATE, extract
from psamf_edge.bundle import Shapes
from psamf_edge.face.expression import EMBEDDING_SIZE, EXPRESSIONS
from psamf_edge.face.geometry import GEOMETRY_FEATURES
from psamf_edge.plan import Features
from psamf_edge.words.wordpiece import WordPiece

NAME = "synthetic check set 1"  # the number goes up with any change of what follows
# which modalities each utterance has, in turn: every segment alone and every pair, words more often than not
PRESENT = ("taf", "t", "ta", "tf", "af", "a", "f", "taf")
SENTENCES = (
    "This is the best film I have seen all year.",
    "I hated every single minute of it.",
    "Yes.",
    "The plot was fine, I guess, and the music did its job.",
    "Honestly, I would not give this to my worst enemy.",
    "She plays the doctor with so much warmth that I forgot I was watching an actress.",
    "It starts at eight and ends at ten.",
    "What a waste of money!",
    "I laughed, I cried, and then I called my mother to tell her about it.",
    "The second half drags, the jokes are stale, and the ending makes no sense at all.",
    "Not bad, not great, just something to look at on a rainy day.",
    "My children loved it, and so did I.",
    "Um, so, yeah, I do not really know what to say about this one.",
    "Nobody in that room could believe how terrible the sound was.",
    "The colours are gorgeous and the camera never stands still without a reason.",
    "I was so angry that I left before the end.",
    "We bought it in the spring, used it for two weeks, and sent it back because the battery would not hold.",
    "Absolutely wonderful, go and see it!",
    "It is a book about a man who repairs clocks.",
    "I did not dislike it, but I would never want to see it again.",
    "The acting saves an otherwise forgettable story.",
    "There is nothing here that you have not seen a hundred times, and done better.",
    "He thanked everyone, twice, and I could tell that he meant it.",
    "The service was slow and the waiter was rude, but the food made up for all of it.",
    "Disappointing.",
    "I am still smiling when I think of that last scene.",
    "They promised us a revolution and gave us the same old thing with a new name and a higher price.",
    "It works as described.",
    "If you like fast cars you may enjoy this, otherwise stay at home.",
    "I have never felt so welcome in a place that I did not know.",
    "The first time it crashed I laughed, the third time I wanted to throw it out of the window.",
    "Well, that was two hours of my life that I will not get back.",
)
SECONDS_A_WORD = 0.4  # 150 words a minute, as people talk
LONGEST_S = 6.0  # of a voice: longer ones cost time and meet no other weights
FACE_RATE = 10  # rows a second

# Means of the measures of a face over photographs and films, to one digit, in the order of GEOMETRY_FEATURES, and how
# much people and moments differ. Both only have to be of the right size: a model clips what lies far outside.
_MEANS = (0.3, 0.3, 0.3, 0.4, 0.3, 0.3, 0.4, 0.3, 0.4, 0.8, 0.1, 0.3, 0.04, 0.04, 0, 0.4, 0.1, 0.1, 0.2, 0.6, 0.6, 0.4,
          0.4, 0.9, 0, 0, 0, 0.4, 0.9, 1)  # fmt: skip
_SPREADS = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.1, 0.1, 0.04, 0.04, 0.02, 0.15, 0.03, 0.03, 0.05, 0.1,
            0.1, 0.1, 0.1, 0.2, 0.25, 0.2, 0.1, 0.05, 0.05, 0)  # fmt: skip
_STEADINESS = 0.9  # what a row of a face keeps of the row 100 ms before it


@dataclass(frozen=True)
class Sample:
    """One utterance as the model takes it. label: in [-3, 3], or None where nobody gave one."""

    name: str
    features: Features
    label: float | None = None


def check_set(vocabulary: bytes, shapes: Shapes) -> list[Sample]:
    """The samples, in the words of a vocabulary (the content of vocab.txt) and cut to the model's longest input."""
    wordpiece, samples = WordPiece(vocabulary), []
    for number, sentence in enumerate(SENTENCES):
        rng, kinds = np.random.default_rng(number), PRESENT[number % len(PRESENT)]
        seconds = min(LONGEST_S, SECONDS_A_WORD * (1 + sentence.count(" ")))
        features = Features(
            wordpiece.encode(sentence, shapes.max_tokens).ids if "t" in kinds else None,
            extract(voice(rng, seconds))[: shapes.max_audio_hops] if "a" in kinds else None,
            face(rng, max(1, round(seconds * FACE_RATE)))[: shapes.max_face_frames] if "f" in kinds else None,
        )
        samples.append(Sample(f"{number + 1}: {'+'.join(features.present)}", features))
    return samples


def voice(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Something like speech, (N,) float32 at 16 kHz: harmonics of a wandering pitch in syllables, over a hiss."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE  # (N,)
    pitch = rng.uniform(90, 240) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.2, 1.0) * t + rng.uniform(0, 6)))  # Hz
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    tilt = rng.uniform(1.0, 2.0)  # how steeply the harmonics fall: a bright or a dull voice
    sound = sum(np.sin(k * phase) / k**tilt for k in range(1, 12))  # to 1 to 3 kHz, where the vowels are
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * t) + 0.3, 0, None)  # two to four a second, with gaps
    hiss = 0.0005 * rng.standard_normal(len(t))
    return (10 ** rng.uniform(-2, -0.5) * syllables * sound / 3 + hiss).astype(np.float32)


def face(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Rows of one face, (rows, F) float32: measures that drift, expressions that sum to one, a normalised embedding."""
    drift = np.empty((rows, len(GEOMETRY_FEATURES) + len(EXPRESSIONS) + EMBEDDING_SIZE))
    drift[0] = rng.standard_normal(drift.shape[1])
    for i in range(1, rows):
        fresh = rng.standard_normal(drift.shape[1])
        drift[i] = _STEADINESS * drift[i - 1] + np.sqrt(1 - _STEADINESS**2) * fresh  # of variance 1 throughout
    measures, logits, embedding = np.split(drift, np.cumsum([len(GEOMETRY_FEATURES), len(EXPRESSIONS)]), axis=1)
    expressions = np.exp(2 * logits)  # 2: as decided as the expression net is
    embedding = embedding - embedding.mean(axis=1, keepdims=True)
    return np.hstack(
        [
            np.array(_MEANS) + np.array(_SPREADS) * measures,
            expressions / expressions.sum(axis=1, keepdims=True),
            embedding / embedding.std(axis=1, keepdims=True),
        ]
    ).astype(np.float32)
