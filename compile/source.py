"""What a bundle is compiled from: a directory of weights, or the ONNX files of a bundle in float32."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psamf_edge.audio.framing import HOP_MS
from psamf_edge.bundle import MANIFEST, Bundle, PlanKernel, Shapes, open_bundle
from psamf_edge.compile.training.record import RECORD
from psamf_edge.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from psamf_edge.compile.export.segments import ExportSegment
    from psamf_edge.compile.model.student import StudentConfig

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "default"
CARRIED = ("vocab.txt", "face_detector.onnx", "face_mesh.onnx", "expression.onnx")  # needed, and packed as they are
FACE_RATE = 10  # frames a second that the face encoder is trained on
LICENCE = "Research use: see MODEL_CARD.md and the NOTICE files in this bundle."


@dataclass(frozen=True)
class Source:
    """A model, ready to be exported.

    files: what the bundle carries beside the plan, by name.
    shapes: of the model.
    node: whether the fusion's cross-modal attention is or can be one node, which our kernel runs; no_node: why not.
    segments: asked with whether to export it so.
    export: a segment to its float32 graph, checked against what it was made from.
    key: JSON that changes with anything the exported graphs depend on.
    provenance, metrics, licence: for the manifest.
    """

    files: dict[str, bytes]
    shapes: Shapes
    node: bool
    no_node: str
    segments: Callable[[bool], list[ExportSegment]]
    export: Callable[[ExportSegment], onnx.ModelProto]
    key: dict[str, str]
    provenance: dict[str, Any]
    metrics: Mapping[str, Any]
    licence: str = LICENCE


def open_source(path: Path) -> Source:
    """A directory of weights or a bundle.

    Raises:
        UsageError: incomplete weights, weights that cannot read a clip, or a bundle that cannot be compiled again.
        IntegrityError: a file of it is damaged.
    """
    return _of_bundle(open_bundle(path)) if (path / MANIFEST).is_file() else _of_weights(path)


def _of_weights(weights: Path) -> Source:
    from psamf_edge.compile.export.cross_modal_op import HEADS, WIDTH, suits
    from psamf_edge.compile.export.segments import split
    from psamf_edge.compile.model.student import load_student

    files, training = _carried_files(weights), _training_record(weights)
    student = load_student(weights)
    config = student.config
    _check_vocabulary(files["vocab.txt"], config.bert.vocabulary)
    _check_features(config)
    hashes = {
        f"{name}_sha256": _sha256((weights / name).read_bytes()) for name in ("student.safetensors", "student.json")
    }
    return Source(
        files=files,
        shapes=_shapes(config),
        node=suits(config.width, config.heads),
        no_node=f"The kernel is made for a width of {WIDTH} with {HEADS} heads, and the student has {config.width} with"
        f" {config.heads}: use --fusion graph.",
        segments=lambda node: split(student, node),
        export=_export_checked,
        key=hashes,
        provenance={
            "student_sha256": hashes["student.safetensors_sha256"],
            "training": {key: value for key, value in training.items() if key != "metrics"},
        },
        metrics=training.get("metrics", {}),
    )


def _export_checked(segment: ExportSegment) -> onnx.ModelProto:
    from psamf_edge.compile.export import onnx_export

    model = onnx_export.export(segment)
    # the export first, then what the cut and the precision add to its error
    onnx_export.check_limits(onnx_export.check_parity(model, segment), "fp32")
    return model


def _of_bundle(bundle: Bundle) -> Source:
    from psamf_edge.compile.export.graph_segments import segments_of
    from psamf_edge.compile.export.partition import has_kernel_nodes

    origin = bundle.provenance.get("student_sha256")
    if not isinstance(origin, str):
        raise UsageError(
            f"{bundle.path} does not say which weights it was compiled from: compile the weights themselves."
        )
    again = f"compile again from the weights it was made of (student.safetensors with SHA-256 {origin})"
    if bundle.precision != "fp32":
        raise UsageError(
            f"{bundle.path} is in {bundle.precision}, and what was rounded away cannot come back: {again}, or from a"
            " bundle of them in fp32."
        )
    if any(isinstance(step, PlanKernel) or step.plugin is not None for step in bundle.plan):
        raise UsageError(
            f"{bundle.path} was cut at our CUDA kernel, and its graphs do not join again: {again}, or from a bundle for"
            " cpu or with --fusion graph."
        )
    of_plan = {name for step in bundle.plan for name in (step.file, step.engine) if name is not None}
    files = {name: bundle.read(name) for name in bundle.files if name not in of_plan}
    segments, models = segments_of(bundle)
    return Source(
        files=files,
        shapes=bundle.shapes,
        node=any(map(has_kernel_nodes, models.values())),
        no_node=f"{bundle.path} has no node for the kernel in its graphs: use --fusion graph, or {again}.",
        segments=lambda node: segments,
        export=lambda segment: models[segment.plan.name],
        key={"manifest_sha256": bundle.manifest_sha256},
        provenance={
            "student_sha256": origin,
            "training": bundle.provenance.get("training", {}),
            "recompiled_from": {"name": bundle.name, "manifest_sha256": bundle.manifest_sha256},
        },
        metrics=dict(bundle.metrics),
        licence=bundle.licence,
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _carried_files(weights: Path) -> dict[str, bytes]:
    missing = [name for name in CARRIED if not (weights / name).is_file()]
    if missing:
        raise UsageError(f"{weights} lacks {', '.join(missing)}: a directory of weights holds them beside the student.")
    paths = [*(weights / name for name in CARRIED), *weights.glob("MODEL_CARD.md"), *sorted(weights.glob("NOTICE*"))]
    return {path.name: path.read_bytes() for path in paths}


def _training_record(weights: Path) -> dict:
    path = weights / RECORD

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse) if path.is_file() else {}
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON ({error}): training writes it, or leave it away.") from error
    if not isinstance(record, dict) or not isinstance(record.get("metrics", {}), dict):
        raise UsageError(f"{path} must hold a JSON object, with an object of `metrics` if it has any.")
    return record


def _check_vocabulary(content: bytes, size: int) -> None:
    count = len(content.decode("utf-8").removesuffix("\n").split("\n"))  # as the tokenizer reads it
    if count != size:
        raise UsageError(f"vocab.txt has {count} entries, but the student knows {size}: use the file of its trunk.")


def _check_features(config: StudentConfig) -> None:
    from psamf_edge.audio.features import AUDIO_FEATURES
    from psamf_edge.face.features import VISION_FEATURES

    known, given = (config.audio_features, config.face_features), (len(AUDIO_FEATURES), len(VISION_FEATURES))
    if known != given:
        raise UsageError(
            f"The student reads {known[0]} voice and {known[1]} face features a step, and the features of a clip are "
            f"{given[0]} and {given[1]}: it could not be run. Train on what `psamf-edge extract` makes of clips."
        )


def _shapes(config: StudentConfig) -> Shapes:
    from psamf_edge.compile.export.segments import FRAMES, HOPS, TOKENS, axis_ranges

    longest = {axis: sizes[2] for axis, sizes in axis_ranges(config).items()}
    return Shapes(
        hidden=config.bert.width,
        width=config.width,
        vocabulary=config.bert.vocabulary,
        audio_features=config.audio_features,
        face_features=config.face_features,
        audio_stride=math.prod(config.audio_strides),
        face_stride=math.prod(config.face_strides),
        audio_hop_ms=HOP_MS,
        face_rate=FACE_RATE,
        max_tokens=longest[TOKENS],
        max_audio_hops=longest[HOPS],
        max_face_frames=longest[FRAMES],
    )
