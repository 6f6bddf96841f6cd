"""What an aligned face expresses: seven class probabilities and an embedding, from our own small CNN."""

from __future__ import annotations

import numpy as np

from psamf_edge.backends.sessions import open_session
from psamf_edge.errors import InputError
from psamf_edge.face.crop import CROP_PIXELS
from psamf_edge.features import Feature

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")  # FER2013's classes, alphabetical
EMBEDDING_SIZE = 32
EXPRESSION_SIZE = len(EXPRESSIONS) + EMBEDDING_SIZE
BATCH = 16  # larger batches are no faster on one thread, and their activations leave the cache

EXPRESSION_FEATURES: tuple[Feature, ...] = (
    *(Feature(f"expression_{name}", "1", f"Probability that the face looks {name}.") for name in EXPRESSIONS),
    *(
        Feature(f"expression_embedding_{i}", "1", "Layer-normalised penultimate activation of the expression net.")
        for i in range(EMBEDDING_SIZE)
    ),
)


class ExpressionNet:
    """A loaded expression net. One object serves one thread at a time.

    Raises:
        IntegrityError: the bytes are not a model.
    """

    def __init__(self, onnx_bytes: bytes) -> None:
        self._session = open_session(onnx_bytes, "expression")

    def embed(self, crops: np.ndarray) -> np.ndarray:
        """The 39 dimensions of EXPRESSION_FEATURES for each crop.

        Args:
            crops: (N, 48, 48) uint8, grey, from `psamf_edge.face.crop.align`; N may be 0.

        Returns:
            (N, 39) float32: probabilities, which sum to 1, then the embedding, of mean 0 and unit RMS.

        Raises:
            InputError: the crops are not (N, 48, 48) uint8.
        """
        if crops.dtype != np.uint8 or crops.ndim != 3 or crops.shape[1:] != (CROP_PIXELS, CROP_PIXELS):
            raise InputError(
                f"The face crops are {crops.dtype} {crops.shape}; they must be uint8 (N, {CROP_PIXELS}, {CROP_PIXELS})."
            )
        out = np.empty((len(crops), EXPRESSION_SIZE), np.float32)  # (N, 39)
        for start in range(0, len(crops), BATCH):
            batch = {"crops": crops[start : start + BATCH]}
            probabilities, embedding = self._session.run(["probabilities", "embedding"], batch)
            out[start : start + BATCH] = np.concatenate([probabilities, embedding], axis=1)
        return out
