"""The student cut into the segments of the plan: four modules with flat, named tensors in and out.

The cut follows what can be left out. A modality that is not there costs nothing, since its segment is skipped; the
fusion reads all three and runs once, over every subset of modalities that is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from psamf_edge.backends.profile import AUDIO_STEPS, FACE_STEPS, FRAMES, HOPS, SUBSETS, TOKENS, Ranges
from psamf_edge.backends.profile import axis_ranges as ranges_up_to
from psamf_edge.bundle import PlanSegment
from psamf_edge.compile.export.cross_modal_op import cross_modal_attention, packed_weights, valid_lengths
from psamf_edge.compile.model.fusion import Fusion, Stream
from psamf_edge.compile.model.student import Student, StudentConfig
from psamf_edge.result import SCORE_LIMIT

BATCH = 1  # a device scores one utterance at a time; a fixed batch lets the exporter fold most shape arithmetic away


@dataclass(frozen=True)
class ExportSegment:
    """One segment, ready to export.

    module: what the segment computes, and what its file is compared with.
    shapes: of each input, in the order of the module's arguments. A string names a dynamic axis; one name is one size.
    integers: the inputs that are int64, each with the number of values it can take; all others are float32.
    exported: the form of the module that is exported, where it is not the module itself.
    """

    plan: PlanSegment
    module: nn.Module
    shapes: dict[str, tuple[int | str, ...]]
    integers: dict[str, int]
    ranges: Ranges
    exported: nn.Module | None = None


def axis_ranges(config: StudentConfig) -> Ranges:
    """What each dynamic axis may be; the greatest is 30 s of speech, in hops of 10 ms and frames of 100 ms."""
    tokens = min(128, config.bert.positions)  # nobody says more words than that in 30 s without a pause
    return ranges_up_to(tokens, 3000, 300, math.prod(config.audio_strides), math.prod(config.face_strides))


class FusionSegment(nn.Module):
    """The fusion with its two streams spelt out, and the score held inside its range."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(
        self,
        hidden: Tensor,
        text_mask: Tensor,
        audio_steps: Tensor,
        audio_steps_mask: Tensor,
        audio_summary: Tensor,
        face_steps: Tensor,
        face_steps_mask: Tensor,
        face_summary: Tensor,
        present: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Shapes as in `split`; gives score (B, S) in [-3, 3] and log_scale (B, S)."""
        audio = Stream(audio_steps, audio_steps_mask, audio_summary)
        face = Stream(face_steps, face_steps_mask, face_summary)
        score, log_scale = self.fuse(hidden, text_mask, audio, face, present)
        return score.clamp(-SCORE_LIMIT, SCORE_LIMIT), log_scale

    def fuse(self, hidden: Tensor, mask: Tensor, audio: Stream, face: Stream, present: Tensor) -> tuple[Tensor, Tensor]:
        """Score, unbounded, and log_scale, (B, S) each."""
        output = self.fusion(hidden, mask, audio, face, present)
        return output.score, output.log_scale


class NodeFusionSegment(FusionSegment):
    """The same with both cross-modal blocks as one operation, for a GPU: see `cross_modal_op`."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__(fusion)
        self.register_buffer("weights", packed_weights(fusion.cross_audio, fusion.cross_face))

    def fuse(self, hidden: Tensor, mask: Tensor, audio: Stream, face: Stream, present: Tensor) -> tuple[Tensor, Tensor]:
        """As FusionSegment, where the ones of each mask come first: the operation takes lengths."""
        fusion = self.fusion
        z, _ = fusion.pre_fusion(hidden, mask, audio.summary, face.summary, present)
        query = fusion.reduce(z)  # (B, S, d)
        lengths = valid_lengths(audio.mask, face.mask, present)
        heard, seen = cross_modal_attention(query, audio.steps, face.steps, lengths, self.weights)
        y = fusion.enhanced(query, seen, heard)  # (B, S, 2)
        return y[..., 0], y[..., 1]


def split(student: Student, node: bool = False) -> list[ExportSegment]:
    """The segments of a student, in the order in which they run. The student is put into evaluation mode.

    node: export the fusion's cross-modal attention as one node; the student must have the kernel's sizes.
    """
    student.eval()
    config = student.config
    hidden, width = config.bert.width, config.width
    text = {"ids": (BATCH, TOKENS), "text_mask": (BATCH, TOKENS)}
    audio = {"audio": (BATCH, HOPS, config.audio_features), "audio_mask": (BATCH, HOPS)}
    face = {"face": (BATCH, FRAMES, config.face_features), "face_mask": (BATCH, FRAMES)}
    fusion = {
        "hidden": (BATCH, TOKENS, hidden),
        "text_mask": (BATCH, TOKENS),
        "audio_steps": (BATCH, AUDIO_STEPS, width),
        "audio_steps_mask": (BATCH, AUDIO_STEPS),
        "audio_summary": (BATCH, width),
        "face_steps": (BATCH, FACE_STEPS, width),
        "face_steps_mask": (BATCH, FACE_STEPS),
        "face_summary": (BATCH, width),
        "present": (BATCH, SUBSETS, 3),
    }
    ranges = axis_ranges(config)

    def segment(
        name: str,
        module: nn.Module,
        shapes: dict,
        outputs: tuple[str, ...],
        when: str | None,
        exported: nn.Module | None = None,
    ) -> ExportSegment:
        plan = PlanSegment(name, f"{name}.onnx", tuple(shapes), outputs, when)
        integers = {"ids": config.bert.vocabulary} if "ids" in shapes else {}
        # eval on the wrapper too: a wrapper left in training mode puts its parts back into it during export
        return ExportSegment(plan, module.eval(), shapes, integers, ranges, exported and exported.eval())

    streams = {m: tuple(f"{m}_{part}" for part in ("steps", "steps_mask", "summary")) for m in ("audio", "face")}
    return [
        segment("text", student.trunk, text, ("hidden",), "text"),
        segment("audio", student.audio, audio, streams["audio"], "audio"),
        segment("face", student.face, face, streams["face"], "face"),
        segment(
            "fusion",
            FusionSegment(student.fusion),
            fusion,
            ("score", "log_scale"),
            None,
            NodeFusionSegment(student.fusion) if node else None,
        ),
    ]
