"""`psamf-edge compile`: a directory of weights to a bundle for one target."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

import psamf_edge
from psamf_edge.audio.framing import HOP_MS
from psamf_edge.bundle import TARGETS, Bundle, PlanKernel, PlanSegment, Shapes
from psamf_edge.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    from psamf_edge.compile.engines.builder import EngineBuilder
    from psamf_edge.compile.export.onnx_export import Parity
    from psamf_edge.compile.export.partition import Part
    from psamf_edge.compile.export.segments import ExportSegment, Ranges
    from psamf_edge.compile.model.student import StudentConfig

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "default"
PRECISIONS = {
    "cpu": ("int8", "fp32"),
    "rtx": ("fp16", "fp32", "int8"),
    "tensorrt": ("fp16", "fp32", "int8"),
}  # the first is the default
FUSIONS = ("kernel", "graph")  # how a GPU runs the fusion's cross-modal attention; the first is the default
CUT_FUSION = ("query", "score")  # the segments before and after the kernel
CARRIED = ("vocab.txt", "face_detector.onnx", "face_mesh.onnx", "expression.onnx")  # needed, and packed as they are
PACKAGES = ("torch", "onnx", "onnxscript", "safetensors")  # of the extra `compile`
FACE_RATE = 10  # frames a second that the face encoder is trained on
LICENCE = "Research use: see MODEL_CARD.md and the NOTICE files in this bundle."

Log = Callable[[str], None]


@click.command("compile")
@click.argument("weights", type=click.Path(path_type=Path), default=DEFAULT_WEIGHTS)
@click.option(
    "--target", type=click.Choice(TARGETS), default="cpu", show_default=True, help="What the bundle will run on."
)
@click.option(
    "--precision",
    type=click.Choice(("fp32", "fp16", "int8")),
    help="Default: int8 for cpu, fp16 for rtx and tensorrt. int8 on a GPU: the weights alone.",
)
@click.option(
    "--fusion",
    type=click.Choice(FUSIONS),
    help="For rtx and tensorrt, where the cross-modal attention runs: in our own CUDA kernel between two engines, or in"
    " the graph of one engine. Default: kernel, where the model has the kernel's sizes.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle to write, OUT.psamf.")
@click.option("--name", help="The model's name in results. Default: the output's name.")
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
def command(
    weights: Path,
    target: str,
    precision: str | None,
    fusion: str | None,
    output: Path,
    name: str | None,
    force: bool,
) -> None:
    """Compile WEIGHTS (default: those that ship with psamf-edge) into a bundle."""
    compile_bundle(weights, output, target, precision, name, force, lambda line: click.echo(line, err=True), fusion)


def compile_bundle(
    weights: Path,
    output: Path,
    target: str = "cpu",
    precision: str | None = None,
    name: str | None = None,
    force: bool = False,
    log: Log = lambda line: None,
    fusion: str | None = None,
) -> Bundle:
    """Export, check, quantise or build, and pack.

    Args:
        weights: student.safetensors, student.json, CARRIED; training.json, MODEL_CARD.md and NOTICE* if they are there.
        output: the bundle to write.
        target: one of TARGETS. For "rtx" and "tensorrt", engines are built here and packed beside the ONNX files.
        precision: one of PRECISIONS[target], or None for its default.
        name: the model's name; None for the stem of `output`.
        force: replace a bundle that is already there.
        log: takes a line for each stage.
        fusion: one of FUSIONS for a GPU, or None: the kernel, where the student has its sizes.

    Raises:
        UsageError: a wrong combination, incomplete weights, weights that cannot read a clip, or an output that exists.
        MissingDependencyError: PyTorch or TensorRT is not installed.
        ExportError: a segment does not give PyTorch's numbers.
    """
    allowed = PRECISIONS.get(target)
    if allowed is None:
        raise UsageError(f"Unknown target {target!r}; allowed are {', '.join(TARGETS)}.")
    precision = precision or allowed[0]
    if precision not in allowed:
        raise UsageError(f"The target {target} has no precision {precision}; allowed are {', '.join(allowed)}.")
    if fusion is not None and (fusion not in FUSIONS or target == "cpu"):
        raise UsageError(
            f"The target {target} has no fusion {fusion}: it is one of {', '.join(FUSIONS)} for rtx and tensorrt, and"
            " nothing to choose for cpu."
        )
    if output.suffix != ".psamf":
        raise UsageError(f"A bundle's name ends in .psamf: write {output.name}.psamf in place of {output.name}.")
    _check_packages()
    from psamf_edge.compile.export.cross_modal_op import HEADS, WIDTH, suits
    from psamf_edge.compile.export.pack import BundleContent, check_free, write_bundle
    from psamf_edge.compile.export.segments import split
    from psamf_edge.compile.model.student import load_student

    check_free(output, force)
    builder = None
    if target != "cpu":  # what may be missing is found before the work, not after
        from psamf_edge.compile.engines.builder import EngineBuilder

        builder = EngineBuilder(target)
    files, training = _carried_files(weights), _training_record(weights)
    with _stage("load the weights", log):
        student = load_student(weights)
    _check_vocabulary(files["vocab.txt"], student.config.bert.vocabulary)
    _check_features(student.config)
    # not on a CPU: after int8, the operation's body takes the fusion 1.07 to 1.14 times as long as PyTorch's form, with
    # the same error (in float32 0.88 to 0.93; ONNX Runtime 1.31, one thread, alternating, medians of 400 at four sizes)
    node = target != "cpu" and suits(student.config.width, student.config.heads)
    if fusion == "kernel" and not node:
        raise UsageError(
            f"The kernel is made for a width of {WIDTH} with {HEADS} heads, and the student has {student.config.width}"
            f" with {student.config.heads}: use --fusion graph."
        )
    segments = split(student, node)
    with _stage("export to ONNX and check against PyTorch", log):
        parts, parities = _export(segments, target, precision, CUT_FUSION if node and fusion != "graph" else None)
    for parity in parities:
        log(f"    {parity.output:18} max abs error {parity.error:.1e}   cosine {parity.cosine:.6f}")
    engines = None
    if builder is not None:
        engines = builder.origin
        with _stage("build the engines", log):
            plan, made = _built(builder, parts, segments[0].ranges, log)
    else:
        plan, made = _exported(parts)
    files |= made
    content = BundleContent(
        name=name or output.stem,
        target=target,
        precision=precision,
        plan=plan,
        shapes=_shapes(student.config),
        licence=LICENCE,
        engines=engines,
        provenance=_provenance(weights, training, parities),
        metrics=training.get("metrics", {}),
    )
    with _stage("pack", log):
        bundle = write_bundle(output, content, files, force)
    for file, entry in bundle.files.items():
        log(f"    {file:18} {entry.size / 1e6:8.3f} MB")
    log(f"{output}: {sum(entry.size for entry in bundle.files.values()) / 1e6:.1f} MB, {target}, {precision}")
    return bundle


def _check_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Compiling needs {', '.join(missing)}, not installed here: `pip install psamf-edge[compile]`."
        )


def _carried_files(weights: Path) -> dict[str, bytes]:
    missing = [name for name in CARRIED if not (weights / name).is_file()]
    if missing:
        raise UsageError(f"{weights} lacks {', '.join(missing)}: a directory of weights holds them beside the student.")
    paths = [*(weights / name for name in CARRIED), *weights.glob("MODEL_CARD.md"), *sorted(weights.glob("NOTICE*"))]
    return {path.name: path.read_bytes() for path in paths}


def _training_record(weights: Path) -> dict:
    path = weights / "training.json"

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


def _export(
    segments: list[ExportSegment], target: str, precision: str, cut: tuple[str, ...] | None
) -> tuple[list[Part], list[Parity]]:
    """The parts of all segments in their order. cut: the names of what kernel nodes cut a graph into, if they do."""
    from psamf_edge.compile.export.onnx_export import check_limits, check_parity, compare, export
    from psamf_edge.compile.export.partition import SegmentPart, has_kernel_nodes, partition
    from psamf_edge.compile.export.parts import PartsRunner, kernel_tensors, lower_part

    exported: list[list[Part]] = []
    for segment in segments:
        model = export(segment)
        # the export first, then what the cut and the precision add to its error
        check_limits(check_parity(model, segment), "fp32")
        cuts = cut is not None and has_kernel_nodes(model)
        exported.append(partition(model, cut, segment.ranges) if cuts else [SegmentPart(segment.plan, model)])
    borders = kernel_tensors([part for parts in exported for part in parts])
    lowered, parities = [], []
    for segment, parts in zip(segments, exported, strict=True):
        parts = [lower_part(part, precision, target, borders) for part in parts]
        found = compare(PartsRunner(parts, segment.plan.outputs).run, segment)
        check_limits(found, precision)
        lowered += parts
        parities += found
    return lowered, parities


def _exported(parts: list[Part]) -> tuple[tuple[PlanSegment, ...], dict[str, bytes]]:
    """The plan of a bundle without engines, and its files."""
    return tuple(part.plan for part in parts), {part.plan.file: part.model.SerializeToString() for part in parts}


def _built(
    builder: EngineBuilder, parts: list[Part], ranges: Ranges, log: Log
) -> tuple[tuple[PlanSegment | PlanKernel, ...], dict[str, bytes]]:
    """The plan of a bundle with engines, and its files: graphs and engines, and the kernels' weights and code."""
    from psamf_edge.compile.engines.kernel_files import kernel_files
    from psamf_edge.compile.export.partition import KernelPart

    plan, files = [], {}
    for part in parts:
        start = time.perf_counter()
        if isinstance(part, KernelPart):
            step, made = kernel_files(part)
        else:
            step = replace(part.plan, engine=f"{part.plan.name}.engine")
            graph = part.model.SerializeToString()
            made = {step.file: graph, step.engine: builder.build(graph, step.name, ranges)}
        plan.append(step)
        files |= made
        log(f"    {list(made)[-1]:26} {time.perf_counter() - start:8.1f} s")
    return tuple(plan), files


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


def _provenance(weights: Path, training: dict, parities: list[Parity]) -> dict:
    import onnx
    import onnxruntime
    import torch

    return {
        "psamf_edge": psamf_edge.__version__,
        "student_sha256": hashlib.sha256((weights / "student.safetensors").read_bytes()).hexdigest(),
        "training": {key: value for key, value in training.items() if key != "metrics"},
        "software": {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        "parity": {p.output: {"max_abs_error": p.error, "cosine": p.cosine} for p in parities},
    }


@contextmanager
def _stage(title: str, log: Log) -> Iterator[None]:
    start = time.perf_counter()
    log(f"{title} ...")
    yield
    log(f"    {time.perf_counter() - start:.1f} s")
