"""The edge model: trunk, voice encoder, face encoder, fusion. Each is one segment of the compiled plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from psamf_edge.compile.model.bert import BertConfig, Trunk
from psamf_edge.compile.model.encoders import SequenceEncoder
from psamf_edge.compile.model.fusion import Fusion, FusionOutput, Stream
from psamf_edge.compile.model.pretrained import load_encoder
from psamf_edge.compile.model.storage import read_weights, save_weights
from psamf_edge.errors import UsageError

if TYPE_CHECKING:
    from psamf_edge.compile.model.teacher import Teacher


@dataclass(frozen=True)
class StudentConfig:
    """Every size of the model. Written into the weights and into the bundle's manifest.

    Raises:
        UsageError: the text encoder has relative positions.
    """

    audio_features: int
    face_features: int
    bert: BertConfig = field(default_factory=BertConfig)
    width: int = 64  # d, as published
    heads: int = 2  # of the cross-modal attention, as published
    audio_strides: tuple[int, ...] = (2, 2, 2, 1)  # 10 ms hops to 80 ms steps, about a syllable's half
    face_strides: tuple[int, ...] = (1, 1)  # already only ten frames a second
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.bert.relative_buckets:  # the last text block, answered for CLS alone, would need them for each head
            raise UsageError(
                "A student's text blocks are a plain BERT's, without MPNet's relative positions: train a teacher with "
                "that encoder, and distil it into a student that begins with a BERT (psamf-edge distill --bert)."
            )

    @classmethod
    def from_dict(cls, raw: dict) -> StudentConfig:
        """The inverse of `dataclasses.asdict` after a trip through JSON."""
        tuples = {name: tuple(raw[name]) for name in ("audio_strides", "face_strides")}
        return cls(**{**raw, **tuples, "bert": BertConfig(**raw["bert"])})


def kept_blocks(have: int, want: int) -> list[int]:
    """Which of `have` pre-trained blocks a smaller encoder begins with: evenly spaced, with the first and the last.

    The idea is DistilBERT's (Sanh et al. 2019, arXiv 1910.01108), which takes every other block.

    Raises:
        UsageError: fewer than two are wanted, or more than there are.
    """
    if not 2 <= want <= have:
        raise UsageError(f"The student cannot have {want} text blocks; this encoder allows 2 to {have}.")
    return [round(i * (have - 1) / (want - 1)) for i in range(want)]


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
    def from_bert(
        cls, directory: Path, audio_features: int, face_features: int, text_blocks: int | None = None, **settings
    ) -> Student:
        """A student whose text blocks carry pre-trained weights, the last one (pre-fusion) included.

        Args:
            directory: a Hugging Face checkpoint of a plain BERT.
            text_blocks: how many of its blocks the student keeps, see `kept_blocks`; None for all.

        Raises:
            UsageError: the checkpoint is no BERT, or has fewer blocks.
        """
        encoder = load_encoder(directory)
        return cls._from_blocks(
            encoder.config, encoder.embeddings, encoder.blocks, audio_features, face_features, text_blocks, settings
        )

    @classmethod
    def from_teacher(
        cls, teacher: Teacher, audio_features: int, face_features: int, text_blocks: int | None = None, **settings
    ) -> Student:
        """A student that begins with a trained teacher's text blocks, and with the layer that reduces their CLS.

        Args and errors as for `from_bert`.
        """
        settings = {"width": teacher.config.width, "heads": teacher.config.heads, **settings}
        blocks = [block.state_dict() for block in teacher.text.blocks]
        embeddings = teacher.text.embeddings.state_dict()
        student = cls._from_blocks(
            teacher.config.bert, embeddings, blocks, audio_features, face_features, text_blocks, settings
        )
        student.fusion.reduce.load_state_dict(teacher.reduce.state_dict())
        return student

    @classmethod
    def from_student(
        cls, larger: Student, audio_features: int, face_features: int, text_blocks: int | None = None
    ) -> Student:
        """A student that begins with a trained one's text blocks and all of its fusion; its encoders are new.

        Args and errors as for `from_bert`.
        """
        config = larger.config
        settings = {
            name: getattr(config, name) for name in ("width", "heads", "audio_strides", "face_strides", "dropout")
        }
        blocks = [block.state_dict() for block in (*larger.trunk.blocks, larger.fusion.pre_fusion.block)]
        embeddings = larger.trunk.embeddings.state_dict()
        student = cls._from_blocks(
            config.bert, embeddings, blocks, audio_features, face_features, text_blocks, settings
        )
        student.fusion.load_state_dict(larger.fusion.state_dict())
        return student

    @classmethod
    def _from_blocks(
        cls,
        bert: BertConfig,
        embeddings: dict[str, Tensor],
        blocks: list[dict[str, Tensor]],
        audio_features: int,
        face_features: int,
        text_blocks: int | None,
        settings: dict,
    ) -> Student:
        kept = kept_blocks(bert.blocks, text_blocks or bert.blocks)
        student = cls(StudentConfig(audio_features, face_features, replace(bert, blocks=len(kept)), **settings))
        student.trunk.embeddings.load_state_dict(embeddings)
        for block, index in zip([*student.trunk.blocks, student.fusion.pre_fusion.block], kept, strict=True):
            block.load_state_dict(blocks[index])
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
    save_weights(student, directory, "student", dtype)


def load_student(directory: Path) -> Student:
    """Read what `save_student` wrote, as float32 and in evaluation mode.

    Raises:
        UsageError: the directory holds no student.
    """
    config, state = read_weights(directory, "student")
    student = Student(StudentConfig.from_dict(config))
    student.load_state_dict(state)
    return student.eval()
