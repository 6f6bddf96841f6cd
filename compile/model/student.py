"""The edge model: trunk, voice encoder, face encoder, fusion. Each is one segment of the compiled plan."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from psamf_edge.compile.model.bert import BertConfig, Trunk, load_bert
from psamf_edge.compile.model.encoders import SequenceEncoder
from psamf_edge.compile.model.fusion import Fusion, FusionOutput, Stream
from psamf_edge.errors import UsageError


@dataclass(frozen=True)
class StudentConfig:
    """Every size of the model. Written into the weights and into the bundle's manifest."""

    audio_features: int
    face_features: int
    bert: BertConfig = field(default_factory=BertConfig)
    width: int = 64  # d, as published
    heads: int = 2  # of the cross-modal attention, as published
    audio_strides: tuple[int, ...] = (2, 2, 2, 1)  # 10 ms hops to 80 ms steps, about a syllable's half
    face_strides: tuple[int, ...] = (1, 1)  # already only ten frames a second
    dropout: float = 0.1

    @classmethod
    def from_dict(cls, raw: dict) -> StudentConfig:
        """The inverse of `dataclasses.asdict` after a trip through JSON."""
        tuples = {name: tuple(raw[name]) for name in ("audio_strides", "face_strides")}
        return cls(**{**raw, **tuples, "bert": BertConfig(**raw["bert"])})


class Student(nn.Module):
    """PSA-MF with one text encoder: blocks 1..N are the trunk, the last block is the pre-fusion (N = blocks - 1)."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config.bert, config.bert.blocks - 1, config.dropout)
        self.audio = SequenceEncoder(config.audio_features, config.width, config.audio_strides, config.dropout)
        self.face = SequenceEncoder(config.face_features, config.width, config.face_strides, config.dropout)
        self.fusion = Fusion(config.bert, config.width, config.heads, config.dropout)

    @classmethod
    def from_bert(cls, directory: Path, audio_features: int, face_features: int, **settings) -> Student:
        """A student whose text blocks carry pre-trained weights, the last one (pre-fusion) included."""
        bert, embeddings, blocks = load_bert(directory)
        student = cls(StudentConfig(audio_features, face_features, bert, **settings))
        student.trunk.embeddings.load_state_dict(embeddings)
        for block, state in zip(student.trunk.blocks, blocks, strict=False):
            block.load_state_dict(state)
        student.fusion.pre_fusion.block.load_state_dict(blocks[-1])
        return student

    def forward(
        self,
        ids: Tensor,
        text_mask: Tensor,
        audio: Tensor,
        audio_mask: Tensor,
        face: Tensor,
        face_mask: Tensor,
        present: Tensor,
    ) -> FusionOutput:
        """Score every subset of modalities of every sample.

        Args:
            ids: (B, L) int64 token ids, [CLS] first.
            text_mask: (B, L) of 0 and 1, float.
            audio: (B, Ta, audio_features), at 10 ms hops.
            audio_mask: (B, Ta).
            face: (B, Tv, face_features), at ten frames a second.
            face_mask: (B, Tv).
            present: (B, S, 3) of 0 and 1: text, audio, face. A sample with nothing present has no defined score.
        """
        hidden = self.trunk(ids, text_mask)
        return self.fusion(
            hidden, text_mask, Stream(*self.audio(audio, audio_mask)), Stream(*self.face(face, face_mask)), present
        )


def save_student(student: Student, directory: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write student.safetensors and student.json. Half precision by default: it halves the file, not the score."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    state = {name: value.to(dtype).contiguous() for name, value in student.state_dict().items()}
    save_file(state, directory / "student.safetensors")
    (directory / "student.json").write_text(json.dumps(asdict(student.config), indent=2) + "\n")


def load_student(directory: Path) -> Student:
    """Read what `save_student` wrote, as float32 and in evaluation mode.

    Raises:
        UsageError: the directory holds no student.
    """
    from safetensors.torch import load_file

    if not (directory / "student.safetensors").is_file() or not (directory / "student.json").is_file():
        raise UsageError(f"{directory} holds no student weights: it needs student.safetensors and student.json.")
    student = Student(StudentConfig.from_dict(json.loads((directory / "student.json").read_text())))
    state = {name: value.float() for name, value in load_file(directory / "student.safetensors").items()}
    student.load_state_dict(state)
    return student.eval()
