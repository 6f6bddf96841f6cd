"""The one table that turns an acted emotion into a sentiment score.

Emotion is not sentiment: this mapping is a proxy, and the model card says so. The values lie on the CMU-MOSI scale [-3,
3]. Their signs carry the meaning; their sizes are chosen so that anger and disgust, which speak against something,
weigh more than sadness and fear, and happiness mirrors the negative mean.
"""

VALENCE = {
    "happy": 1.8,
    "surprise": 0.0,  # pleased or shocked: without the words it has no sign
    "neutral": 0.0,
    "calm": 0.0,
    "boredom": -0.7,
    "sad": -1.6,
    "fear": -1.6,
    "angry": -2.0,
    "disgust": -2.0,
    "contempt": -1.6,
}

NEGATIVE = ("angry", "sad", "fear", "disgust")  # the four set against `happy` in every reported valence-sign accuracy


def side_of(valence: float) -> int:
    """-1, 0 or 1: the side on which a score or a valence lies; within half a point of zero it is neutral."""
    return 0 if abs(valence) < 0.5 else (1 if valence > 0 else -1)
