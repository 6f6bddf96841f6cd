"""A directory of weights as `compile` takes it: a small untrained student, and the real face models."""

from __future__ import annotations

import shutil
from pathlib import Path

from psamf_edge.audio.features import AUDIO_FEATURES
from psamf_edge.face.features import VISION_FEATURES

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz.,!?'"]
VOCABULARY += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]  # so that any English text has ids
DEFAULT_WEIGHTS = Path(__file__).parents[1] / "compile" / "weights" / "default"


def write_tiny_weights(directory: Path) -> Path:
    """Write them; returns the directory."""
    import torch

    from psamf_edge.compile.command import CARRIED
    from psamf_edge.compile.model.bert import BertConfig
    from psamf_edge.compile.model.student import Student, StudentConfig, save_student

    torch.manual_seed(0)
    bert = BertConfig(vocabulary=len(VOCABULARY), width=32, heads=2, feed_forward=64, blocks=2, positions=128)
    student = Student(StudentConfig(len(AUDIO_FEATURES), len(VISION_FEATURES), bert, width=16))
    torch.nn.init.normal_(student.fusion.pre_fusion.no_text)  # zeros, as it starts, would hide a wrong use of it
    save_student(student, directory, torch.float32)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (directory / "training.json").write_text('{"source": "none: untrained", "metrics": {"mae": 1.5}}')
    for name in CARRIED:
        if name != "vocab.txt":
            shutil.copy(DEFAULT_WEIGHTS / name, directory)
    return directory
