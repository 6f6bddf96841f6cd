"""Small files in MMSA's format for the tests, made by Python's own pickler."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

STEPS = {"audio": 9, "vision": 7}
SIZES = {"audio": 5, "vision": 20}  # as MOSI has them
TOKENS = 50


def clips(count: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """Rows (T_i, d) for each stream and clip, T_i from 1 to all steps, without a row of zeros."""
    random = np.random.default_rng(seed)
    return {
        stream: [
            random.uniform(0.5, 2, (random.integers(1, STEPS[stream], endpoint=True), size)).astype(np.float32)
            for _ in range(count)
        ]
        for stream, size in SIZES.items()
    }


def padded(rows: list[np.ndarray], steps: int, front: bool) -> np.ndarray:
    """(N, steps, d), with zeros in front of the rows or after them."""
    array = np.zeros((len(rows), steps, rows[0].shape[1]), np.float32)
    for index, row in enumerate(rows):
        start = steps - len(row) if front else 0
        array[index, start : start + len(row)] = row
    return array


def split(count: int, seed: int = 0, front: tuple[str, ...] = (), aligned: bool = False) -> dict[str, Any]:
    """One split. front: the streams with padding in front."""
    random, rows = np.random.default_rng(seed), clips(count, seed)
    text_bert = np.zeros((count, 3, TOKENS))
    for index in range(count):
        length = random.integers(2, TOKENS, endpoint=True)
        text_bert[index, 0, :length] = [101, *random.integers(1000, 2000, length - 2), 102]
        text_bert[index, 1, :length] = 1
    labels = random.uniform(-3, 3, count)
    made = {
        "id": np.array([f"video{seed}$_${index}" for index in range(count)]),
        "raw_text": np.array([f"words of clip {index}, ü" for index in range(count)]),
        "text": np.zeros((count, TOKENS, 8), np.float32),
        "text_bert": text_bert,
        "annotations": np.array(["Negative", "Neutral", "Positive"])[np.sign(labels).astype(int) + 1],
        "regression_labels": labels,
        "classification_labels": np.sign(labels) + 1,
    }
    for stream in STEPS:
        made[stream] = padded(rows[stream], STEPS[stream], stream in front)
        if not aligned:
            made[f"{stream}_lengths"] = [len(row) for row in rows[stream]]
    return made


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def content(**options: Any) -> dict[str, dict[str, Any]]:
    """A whole file: 12 clips to train on, 5 and 4 others."""
    return {"train": split(12, 1, **options), "valid": split(5, 2, **options), "test": split(4, 3, **options)}


class MmsaLoader:
    """What MMSA's data_loader does with one split of a feature file, written anew from what it publishes.

    It unpickles the file, takes the streams as float32 arrays, labels through np.array, lengths where the data is not
    aligned, sets -inf in the sound to 0, and gives items by index. Its models read the sizes off the arrays.
    """

    def __init__(self, path: Path, mode: str, aligned: bool = False) -> None:
        with path.open("rb") as file:
            data = pickle.load(file)[mode]
        self.text, self.vision, self.audio = (
            data[name].astype(np.float32) for name in ("text_bert", "vision", "audio")
        )
        self.raw_text, self.ids = data["raw_text"], data["id"]
        self.labels = np.array(data["regression_labels"]).astype(np.float32)
        if not aligned:
            self.audio_lengths, self.vision_lengths = data["audio_lengths"], data["vision_lengths"]
        self.audio[self.audio == -np.inf] = 0
        self.sequence_lengths = (self.text.shape[2], self.audio.shape[1], self.vision.shape[1])
        self.feature_sizes = (self.text.shape[2], self.audio.shape[2], self.vision.shape[2])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "raw_text": self.raw_text[index],
            "text": self.text[index],
            "audio": self.audio[index],
            "vision": self.vision[index],
            "id": self.ids[index],
            "label": self.labels[index].reshape(-1),
            "audio_lengths": self.audio_lengths[index],
            "vision_lengths": self.vision_lengths[index],
        }
