"""Personality vectors of many texts, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from psamf_edge.compile.files import save_arrays
from psamf_edge.compile.personality.model import PersonalityEncoder
from psamf_edge.compile.training.device import device_of
from psamf_edge.compile.training.reading import by_length
from psamf_edge.errors import UsageError


@torch.inference_mode()
def personality_vectors(encoder: PersonalityEncoder, ids: Sequence[np.ndarray], batch: int = 32) -> np.ndarray:
    """PSA-MF's p of each text: ids[i] (L_i,) int64, [CLS] first -> (N, H) float32.

    Raises:
        UsageError: a text has no token, or more than the encoder has positions.
    """
    lengths = np.array([len(row) for row in ids], np.int64)
    limit = encoder.config.positions
    if len(ids) and not (lengths.min() >= 1 and lengths.max() <= limit):
        raise UsageError(f"Texts of {lengths.min()} to {lengths.max()} tokens were given; 1 to {limit} are allowed.")
    vectors = np.zeros((len(ids), encoder.config.width), np.float32)
    was_training = encoder.training
    encoder.eval()
    for rows, tokens, mask in by_length(ids, batch, device_of(encoder)):
        vectors[rows] = encoder.vector(tokens, mask).cpu().numpy()
    encoder.train(was_training)
    return vectors


def cached_vectors(encoder: PersonalityEncoder, ids: Sequence[np.ndarray], cache: Path, batch: int = 32) -> np.ndarray:
    """`personality_vectors`, kept in `cache` (an .npz of plain arrays) with a hash of the weights and of the texts.

    Raises:
        UsageError: as `personality_vectors`, or the cache was made with other weights or other texts.
    """
    key = _key(encoder, ids)
    if not cache.is_file():
        save_arrays(cache, vectors=personality_vectors(encoder, ids, batch), key=key)
    stored = np.load(cache, allow_pickle=False)
    if str(stored["key"]) != key:
        raise UsageError(f"The cache {cache} was made with other weights or texts; delete it and run again.")
    return stored["vectors"]


def _key(encoder: PersonalityEncoder, ids: Sequence[np.ndarray]) -> str:
    """SHA-256 over each array with its name or number, type and shape, so that no two inputs share their bytes."""
    digest = hashlib.sha256()
    arrays = {name: value.detach().cpu().numpy() for name, value in encoder.trunk.state_dict().items()}
    for name, values in (*arrays.items(), *enumerate(ids)):
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
