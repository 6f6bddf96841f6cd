"""What the model gets of one utterance, modality by modality, and how much of it was usable.

A state is `present`, `missing` or `degraded`. A missing modality is not given to the model. A degraded one is, since a
little of it says more than nothing, but whoever reads the score should know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from psamf_edge.audio.features import SAMPLE_RATE, extract
from psamf_edge.audio.framing import HOP
from psamf_edge.face.features import VISION_FEATURES, FaceFeatures
from psamf_edge.words.utterances import Utterance
from psamf_edge.words.wordpiece import WordPiece

LEAST_USABLE = 0.5  # share of an utterance; a modality below it is degraded, as psamf_edge.result defines
MESH_FOUND = [feature.name for feature in VISION_FEATURES].index("mesh_found")
SPECIAL_TOKENS = 2  # [CLS] and [SEP]: a text of only these says nothing

# Why a modality is not simply present. The analyzer adds in how many utterances, and a full stop.
NO_KNOWN_WORD = "The model knows none of the words"
UNKNOWN_WORDS = "The model knows less than half of the words"
LONG_TEXT = "The text is longer than the model reads, and its end was left out"
NO_SPEECH = "No speech was heard"
SILENCE = "The sound is missing or digital silence for more than half of the time"
LONG_AUDIO = "The voice was read only up to the longest utterance that the model takes"
NO_FACE = "No face was found"
RARE_FACE = "A face was found in less than half of the frames"
FACE_CROP = "The picture was taken for a cropped face, because no face was found in it"
LONG_FACE = "The face was read only up to the longest utterance that the model takes"


@dataclass(frozen=True)
class Part:
    """One modality of one utterance. values: what the model gets, None if missing. reasons: what is wrong with it."""

    values: np.ndarray | None
    state: str
    reasons: tuple[str, ...] = ()


ABSENT = Part(None, "missing")  # not asked for, or the clip has none of it


def text_part(wordpiece: WordPiece, text: str | None, max_tokens: int) -> Part:
    """Token ids (L,) int64 of the words."""
    if not text:
        return ABSENT
    encoded = wordpiece.encode(text, max_tokens)
    tokens = len(encoded.ids) - SPECIAL_TOKENS
    unknown = int(np.sum(encoded.ids == wordpiece.unknown_id))
    if unknown >= tokens:
        return Part(None, "missing", (NO_KNOWN_WORD,))
    reasons, usable = [], 1 - unknown / tokens
    if usable < LEAST_USABLE:
        reasons.append(UNKNOWN_WORDS)
    if encoded.truncated:
        reasons.append(LONG_TEXT)
        if wordpiece.encode(text, math.ceil(max_tokens / LEAST_USABLE)).truncated:
            usable = 0.0  # more was left out than read
    return Part(encoded.ids, _state(usable), tuple(reasons))


def audio_part(samples: np.ndarray, spans: list[tuple[int, int]], utterance: Utterance, max_hops: int) -> Part:
    """Voice features (T, 63) of the utterance.

    Args:
        samples: (N,) of the whole clip, 16 kHz.
        spans: where somebody speaks in the clip, in ms. An utterance outside of all of them has no voice: the
            features of noise or music would be scored as one.
        utterance: its times.
        max_hops: the longest input that the model takes.
    """
    if not any(start < utterance.end_ms and end > utterance.start_ms for start, end in spans):
        return Part(None, "missing", (NO_SPEECH,))
    first, last = (ms * SAMPLE_RATE // 1000 for ms in (utterance.start_ms, utterance.end_ms))
    limit = min(last, first + max_hops * HOP)
    heard = samples[first:limit]
    sounding = HOP * int(np.logical_or.reduceat(heard != 0, np.arange(0, len(heard), HOP)).sum())
    reasons = []
    if sounding < LEAST_USABLE * (limit - first):
        reasons.append(SILENCE)
    if limit < last:
        reasons.append(LONG_AUDIO)
    return Part(extract(heard), _state(sounding / (last - first)), tuple(reasons))


def face_part(face: FaceFeatures, max_frames: int) -> Part:
    """Face features (T, F) of the utterance, one row for each frame with a face."""
    if not face.frames_with_face:
        return Part(None, "missing", (NO_FACE,))
    values = face.values[:max_frames]
    reasons, usable = [], len(values) / face.frames_seen
    if face.frames_with_face < LEAST_USABLE * face.frames_seen:
        reasons.append(RARE_FACE)
    if values[:, MESH_FOUND].mean() < LEAST_USABLE:
        reasons.append(FACE_CROP)
        usable = 0.0
    if len(values) < face.frames_with_face:
        reasons.append(LONG_FACE)
    return Part(values, _state(usable), tuple(reasons))


def _state(usable: float) -> str:
    return "degraded" if usable < LEAST_USABLE else "present"
