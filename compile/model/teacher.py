"""PSA-MF as published, with each difference of its release as a named option (arXiv 2512.01442).

`TeacherConfig.drawn` follows the paper and its figure, `TeacherConfig.released` the released code; every ablation of
the paper is one `dataclasses.replace` away: personality=False, l_ps=0, l_clm=0, pre_fusion=False,
enhanced_fusion=False.
The personality vector is an input: its encoder is frozen, so that it is computed once for each sentence.

The release's selection of a model on test data, and its failure at a batch of one, are no options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from psamf_edge.compile.model.alignment import Alignment, ContrastiveProjection, Pair, PersonalityAlignment
from psamf_edge.compile.model.attention import CrossModalAttention, CrossModalBlock
from psamf_edge.compile.model.bert import BertConfig, Trunk
from psamf_edge.compile.model.fusion import EnhancedFusion, Stream
from psamf_edge.compile.model.pretrained import find_encoder, load_encoder
from psamf_edge.compile.model.recurrence import RecurrentEncoder
from psamf_edge.compile.model.storage import read_weights, save_weights
from psamf_edge.errors import UsageError

BERT_SPREAD = 0.02  # standard deviation of BERT's own initial weights
CHOICES = {
    "cross_modal_block": ("drawn", "bare"),
    "blocks_after_n": ("pretrained", "random"),
    "clip": ("clip", "released"),
    "similarity": ("sample", "batch"),
    "alignment_weight": ("distance", "similarity"),
}


@dataclass(frozen=True)
class TeacherConfig:
    """Every size and option of the model; the defaults are the paper's.

    Raises:
        UsageError: an option has a value that does not exist, or a block number lies outside the encoder.
    """

    audio_features: int
    face_features: int
    bert: BertConfig = field(default_factory=BertConfig)
    personality_width: int | None = None  # Hp; None: H, as published. Another one gets a projection to H
    width: int = 64  # d
    heads: int = 2  # of the cross-modal attention
    dropout: float = 0.1  # BERT's
    feature_limit: float | None = 6.0  # standard deviations that a feature counts for; see StandardisingEncoder

    # the parts that the paper takes away one by one
    personality: bool = True  # without: p is 0, and there is nothing to align (no L_ccl, no L_ps)
    pre_fusion: bool = True  # without: blocks N+1.. see the text alone; L_clm stays
    enhanced_fusion: bool = True  # without: a linear head on the three streams joined
    l_ps: float = 0.1
    l_clm: float = 0.09

    # where paper and release differ
    key_mask: bool = True  # without: keys are padded with zeros to `unmasked_steps`, and all of them attended to
    unmasked_steps: int = 500
    cross_modal_block: str = "drawn"
    serial_width: int = 2048  # of the serial path's projections, the only width that was published
    serial_text: bool = True  # project the text as well
    blocks_after_n: str = "pretrained"
    third_encoder: bool = False  # a second text encoder, run for nothing
    clip: str = "clip"  # form and scale of the contrast; see ContrastiveProjection and CLIP_SCALES
    similarity: str = "sample"
    alignment_weight: str = "distance"

    # block numbers, from 1; None: where the published 11 and 10 of 12 are, counted from the last
    prefusion_block: int | None = None  # N
    alignment_block: int | None = None  # k

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if (got := getattr(self, name)) not in allowed:
                raise UsageError(f"The teacher's {name} is {got!r}; it can be {' or '.join(map(repr, allowed))}.")
        for name, block, most in (("prefusion_block", self.n, self.bert.blocks - 1), ("alignment_block", self.k, None)):
            if not 1 <= block <= (most := most or self.bert.blocks):
                raise UsageError(f"The teacher's {name} is {block}; with {self.bert.blocks} blocks it is 1 to {most}.")

    @property
    def n(self) -> int:
        """N: the last block that sees the text alone."""
        return self.bert.blocks - 1 if self.prefusion_block is None else self.prefusion_block

    @property
    def k(self) -> int:
        """The block whose CLS is aligned with the personality."""
        return max(1, self.bert.blocks - 2) if self.alignment_block is None else self.alignment_block

    @classmethod
    def drawn(cls, audio_features: int, face_features: int, **others) -> TeacherConfig:
        """The paper and its figure."""
        return cls(audio_features, face_features, **others)

    @classmethod
    def released(cls, audio_features: int, face_features: int, **others) -> TeacherConfig:
        """The released code."""
        differences = {
            "feature_limit": None, "key_mask": False, "cross_modal_block": "bare", "serial_text": False,
            "blocks_after_n": "random", "third_encoder": True, "clip": "released", "similarity": "batch",
        }  # fmt: skip
        return cls(audio_features, face_features, **{**differences, **others})

    @classmethod
    def from_dict(cls, raw: dict) -> TeacherConfig:
        """The inverse of `dataclasses.asdict` after a trip through JSON."""
        return cls(**{**raw, "bert": BertConfig(**raw["bert"])})


class TeacherOutput(NamedTuple):
    """What the teacher gives of each sample. T is what the keys were: with no key mask, at least 500."""

    score: Tensor  # (B,), unbounded
    hidden_cls: Tensor  # (B, blocks + 1, H): CLS of the embeddings and after each block; zeros up to N without text
    z: Tensor  # (B, H): the last of them
    audio_weights: Tensor  # (B, h, Ta), attention over the voice; without meaning where it is missing
    face_weights: Tensor  # (B, h, Tv)
    present: Tensor  # (B, 3) of 0 and 1: text, audio and face that took part
    s: Tensor  # (B, H): CLS after block N
    a: Tensor  # (B, H): a', the voice's token
    v: Tensor  # (B, H): v', the face's
    alignment: Alignment | None  # None without personality
    contrasts: tuple[Pair, Pair] | None  # s with a', s with v'; None without L_clm


def initialise_new(part: nn.Module) -> None:
    """Xavier-normal matrices, as published; biases stay as torch makes them."""
    for parameter in part.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)


def initialise_text(trunk: Trunk) -> None:
    """As BERT before its pre-training."""
    for module in trunk.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=BERT_SPREAD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class Teacher(nn.Module):
    """PSA-MF. New weights start Xavier-normal, text blocks as BERT's own do; `from_bert` loads pre-trained ones."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        bert, d, H = config.bert, config.width, config.bert.width
        Hp = config.personality_width or H
        self.text = Trunk(bert, bert.blocks, config.dropout)
        self.third = Trunk(bert, bert.blocks, config.dropout).requires_grad_(False) if config.third_encoder else None
        self.audio = RecurrentEncoder(config.audio_features, d, config.feature_limit)
        self.face = RecurrentEncoder(config.face_features, d, config.feature_limit)

        self.no_text = nn.Parameter(torch.zeros(H))  # stands for CLS where the text is missing
        self.audio_token = nn.Linear(d, H)  # W_a
        self.face_token = nn.Linear(d, H)  # W_v
        self.fit_personality = nn.Linear(Hp, H, bias=False) if config.personality and Hp != H else nn.Identity()
        self.contrast_audio = ContrastiveProjection(H, H, config.clip) if config.l_clm else None
        self.contrast_face = ContrastiveProjection(H, H, config.clip) if config.l_clm else None
        self.alignment = PersonalityAlignment(H, Hp, d, config.clip, config.l_ps > 0) if config.personality else None

        self.reduce = nn.Linear(H, d)  # W_r
        if config.cross_modal_block == "drawn":
            self.cross_audio, self.cross_face = (CrossModalBlock(d, config.heads, config.dropout) for _ in range(2))
        else:
            self.cross_audio, self.cross_face = (CrossModalAttention(d, config.heads) for _ in range(2))
        if config.enhanced_fusion:
            serial = (config.serial_width if config.serial_text else None, config.serial_width, config.serial_width)
            self.enhanced = EnhancedFusion(d, config.dropout, outputs=1, serial=serial)
        else:
            self.joined = nn.Linear(3 * d, 1)
        for part in self.children():
            initialise_text(part) if isinstance(part, Trunk) else initialise_new(part)

    @classmethod
    def from_bert(
        cls,
        name: str | Path,
        audio_features: int,
        face_features: int,
        preset: Callable[..., TeacherConfig] = TeacherConfig.drawn,
        **options,
    ) -> Teacher:
        """A teacher with pre-trained text blocks; with blocks_after_n "random", those after N stay as they were made.

        Args:
            name: a checkpoint directory, or the name of one on the Hugging Face hub (fetched over the network). A plain
                BERT or an MPNet, see `load_encoder`.
            audio_features, face_features: of each step.
            preset: TeacherConfig.drawn or TeacherConfig.released.
            options: further fields of TeacherConfig.

        Raises:
            UsageError: an option value that does not exist, no such checkpoint, or one that is neither.
        """
        pretrained = load_encoder(find_encoder(name))
        teacher = cls(preset(audio_features, face_features, bert=pretrained.config, **options))
        teacher.text.load(pretrained, teacher.config.n if teacher.config.blocks_after_n == "random" else None)
        if teacher.third is not None:
            teacher.third.load(pretrained)
        return teacher

    def forward(
        self,
        ids: Tensor,
        text_mask: Tensor,
        audio: Tensor,
        audio_mask: Tensor,
        face: Tensor,
        face_mask: Tensor,
        personality: Tensor,
        present: Tensor | None = None,
    ) -> TeacherOutput:
        """Score each sample from the modalities it has.

        Args:
            ids: (B, L) int64 token ids, [CLS] first.
            text_mask: (B, L) of 0 and 1, float.
            audio: (B, Ta, audio_features).
            audio_mask: (B, Ta), valid steps first.
            face: (B, Tv, face_features).
            face_mask: (B, Tv), likewise.
            personality: (B, Hp), CLS of the frozen personality encoder; it gets no gradient.
            present: (B, 3) of 0 and 1: text, audio, face; all where None. A modality whose mask is all 0 is missing as
                well: its token is masked, its context is none, and text also gives no personality. A sample with
                nothing present has no defined score.
        """
        voice, sight = Stream(*self.audio(audio, audio_mask)), Stream(*self.face(face, face_mask))
        has = torch.stack([mask.amax(dim=1) for mask in (text_mask, voice.mask, sight.mask)], dim=1)  # (B, 3)
        present = has if present is None else has * present
        has_text, has_audio, has_face = present.split(1, dim=1)  # (B, 1) each
        if self.third is not None:
            self.third(ids, text_mask)

        p = personality.detach() * has_text  # (B, Hp)
        shift = self.fit_personality(p) if self.config.personality else 0.0  # (B, H)
        a = torch.relu(self.audio_token(voice.summary) + shift)  # (B, H)
        v = torch.relu(self.face_token(sight.summary) + shift)
        hidden_cls = self._read(ids, text_mask, v, a, present)  # (B, blocks + 1, H)
        s, z = hidden_cls[:, self.config.n], hidden_cls[:, -1]

        t = self.reduce(z).unsqueeze(1)  # (B, 1, d): one query
        seen, face_weights = self._look(self.cross_face, t, sight, has_face)
        heard, audio_weights = self._look(self.cross_audio, t, voice, has_audio)
        streams = (t, seen, heard)  # (B, 1, d) each
        y = self.enhanced(*streams) if self.config.enhanced_fusion else self.joined(torch.cat(streams, dim=2))
        contrasts = None
        if self.contrast_audio is not None:
            contrasts = self.contrast_audio(s, a), self.contrast_face(s, v)
        alignment = self.alignment(hidden_cls[:, self.config.k], p) if self.alignment is not None else None
        return TeacherOutput(
            y[:, 0, 0], hidden_cls, z, audio_weights[:, 0], face_weights[:, 0], present, s, a, v, alignment, contrasts
        )

    def _read(self, ids: Tensor, text_mask: Tensor, v: Tensor, a: Tensor, present: Tensor) -> Tensor:
        """The sentiment encoder: N blocks on the text, the others on [text; v'; a'] -> CLS (B, blocks + 1, H)."""
        has_text, has_audio, has_face = present.split(1, dim=1)  # (B, 1) each
        mask = text_mask * has_text  # (B, L)
        x = self.text.dropout(self.text.embeddings(ids))  # (B, L, H)
        read = [x[:, 0] * has_text]
        bias = self.text.bias(mask)
        for block in self.text.blocks[: self.config.n]:
            x = block(x, bias)
            read.append(x[:, 0] * has_text)
        cls = read[-1] + (1.0 - has_text) * self.no_text  # (B, H)
        x = torch.cat([cls.unsqueeze(1), x[:, 1:]], dim=1)
        mask = torch.cat([torch.ones_like(has_text), mask[:, 1:]], dim=1)  # CLS always: it is what is read
        if self.config.pre_fusion:
            x = torch.cat([x, v.unsqueeze(1), a.unsqueeze(1)], dim=1)  # (B, L + 2, H)
            mask = torch.cat([mask, has_face, has_audio], dim=1)
        bias = self.text.bias(mask, others=x.shape[1] - ids.shape[1])
        for block in self.text.blocks[self.config.n :]:
            x = block(x, bias)
            read.append(x[:, 0])
        return torch.stack(read, dim=1)

    def _look(self, block: CrossModalAttention, t: Tensor, stream: Stream, has: Tensor) -> tuple[Tensor, Tensor]:
        """The query t (B, 1, d) over a stream; has (B, 1) -> context (B, 1, d), weights (B, 1, h, T)."""
        steps, valid = stream.steps, stream.mask
        if not self.config.key_mask:
            steps = nn.functional.pad(steps, (0, 0, 0, max(0, self.config.unmasked_steps - steps.shape[1])))
            valid = torch.ones_like(steps[..., 0])
        return block(t, steps, (valid * has).unsqueeze(1))


def save_teacher(teacher: Teacher, directory: Path) -> None:
    """Write teacher.safetensors, in full precision, and teacher.json."""
    save_weights(teacher, directory, "teacher", torch.float32)


def load_teacher(directory: Path) -> Teacher:
    """Read what `save_teacher` wrote, in evaluation mode.

    Raises:
        UsageError: the directory holds no teacher.
    """
    config, state = read_weights(directory, "teacher")
    teacher = Teacher(TeacherConfig.from_dict(config))
    teacher.load_state_dict(state)
    return teacher.eval()
