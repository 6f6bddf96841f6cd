"""`psamf-edge compile`: weights, a teacher or a bundle to a bundle for one target."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import click

import psamf_edge
from psamf_edge.bundle import TARGETS, Bundle, PlanKernel, PlanSegment
from psamf_edge.compile.distilled import distil_first, is_teacher
from psamf_edge.compile.export.pack import check_free
from psamf_edge.compile.finished import was_packed
from psamf_edge.compile.precisions import PRECISIONS, is_calibrated
from psamf_edge.compile.quality.bounds import Quality
from psamf_edge.compile.quality.options import quality_options
from psamf_edge.compile.source import CARRIED as CARRIED
from psamf_edge.compile.source import DEFAULT_WEIGHTS
from psamf_edge.compile.training.options import DataOption, data_options, parts_option
from psamf_edge.errors import MissingDependencyError, UsageError
from psamf_edge.report.escape import shown

if TYPE_CHECKING:
    from psamf_edge.backends.engine_builder import EngineBuilder
    from psamf_edge.compile.export.partition import Part
    from psamf_edge.compile.export.segments import Ranges
    from psamf_edge.compile.work import Work

FUSIONS = ("kernel", "graph", "plugin")  # how a GPU runs the cross-modal attention; the first is the default
CUT_FUSION = ("query", "score")  # the segments before and after the kernel
PACKAGES = ("torch", "onnx", "onnxscript", "safetensors")  # of the extra `compile`

Log = Callable[[str], None]


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path), default=DEFAULT_WEIGHTS)
@click.option(
    "--target", type=click.Choice(TARGETS), default="cpu", show_default=True, help="What the bundle will run on."
)
@click.option(
    "--precision",
    type=click.Choice(("fp32", "fp16", "int8", "int8-weights", "fp8")),
    help="Default: int8 for cpu, fp16 for rtx and tensorrt. On a GPU, int8 and fp8 take weights and activations of the"
    " text's products, see --calibrate (fp8 from compute capability 8.9 on); int8-weights takes all weights, and no"
    " activation. The rest is fp16.",
)
@click.option(
    "--fusion",
    type=click.Choice(FUSIONS),
    help="For rtx and tensorrt, where the cross-modal attention runs: in our own CUDA kernel between two engines, in"
    " the graph of one engine, or (tensorrt alone, not yet run on a GPU) in our kernel as a plugin of one engine."
    " Default: kernel, where the model has the kernel's sizes.",
)
@click.option(
    "--engines/--no-engines",
    default=True,
    help="For rtx and tensorrt, build the engines here and pack them. Without, which needs no TensorRT here, the device"
    " builds its own on first use and keeps them.  [default: engines]",
)
@click.option(
    "--low-memory",
    is_flag=True,
    help="Build engines in little memory, as on an Orin Nano. PSAMF_EDGE_LOW_MEMORY=1 does so where they are used.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle to write, OUT.psamf.")
@click.option("--name", help="The model's name in results. Default: the output's name.")
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
@click.option(
    "--student",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where a teacher is distilled into.  [default: OUT.student]",
)
@data_options
@parts_option
@quality_options
def command(
    model: Path,
    target: str,
    precision: str | None,
    fusion: str | None,
    engines: bool,
    low_memory: bool,
    output: Path,
    name: str | None,
    force: bool,
    student: Path | None,
    data: DataOption,
    parts: Path,
    quality: Quality,
) -> None:
    """Compile MODEL into a bundle.

    MODEL is a directory of weights (default: those that ship with psamf-edge); or one that `psamf-edge train teacher`
    wrote, which is distilled first, with the defaults of `psamf-edge distill` and the --data or --features that it
    needs; or a bundle in fp32, whose graphs are then lowered or built anew. What the precision costs is measured before
    anything is written; past a bound nothing is, and the exit code is 4. An interrupted compile goes on where it was.
    """

    def log(line: str) -> None:
        click.echo(shown(line), err=True)  # a bundle's own words may be among it

    if is_teacher(model):
        _prepare(output, target, precision, fusion, quality, engines, low_memory, force)  # before hours of training
        model = distil_first(model, data, parts, student or output.with_suffix(".student"), log)
    elif data.folder or data.files or student or parts != DEFAULT_WEIGHTS:
        raise UsageError(f"--data, --features, --parts and --student are for a teacher to distil; {model} is none.")
    compile_bundle(model, output, target, precision, name, force, log, fusion, quality, engines, low_memory)


def compile_bundle(
    model: Path,
    output: Path,
    target: str = "cpu",
    precision: str | None = None,
    name: str | None = None,
    force: bool = False,
    log: Log = lambda line: None,
    fusion: str | None = None,
    quality: Quality | None = None,
    engines: bool = True,
    low_memory: bool = False,
) -> Bundle:
    """Export, lower, judge, build and pack; stages that an interrupted call finished are not repeated.

    Args:
        model: a directory with student.safetensors, student.json, CARRIED; training.json, MODEL_CARD.md and NOTICE* if
            they are there. Or a bundle in fp32.
        output: the bundle to write.
        target: one of TARGETS.
        precision: one of PRECISIONS[target], or None for its default.
        name: the model's name; None for the stem of `output`.
        force: replace a bundle that is already there.
        log: takes a line for each stage.
        fusion: one of FUSIONS for a GPU, or None: the kernel, where the student has its sizes.
        quality: what the precision may cost, and on what data.
        engines: for "rtx" and "tensorrt", build them here and pack them beside the ONNX files; else the device does.
        low_memory: build them in little memory.

    Raises:
        UsageError: a wrong combination, incomplete weights, weights that cannot read a clip, a bundle that cannot be
            compiled again, an output that exists, or that another process is making.
        MissingDependencyError: PyTorch or TensorRT is not installed.
        ExportError: a segment does not give PyTorch's numbers, or has an operator that the target cannot run.
        BuildError: no engine comes out of a segment.
        PrecisionError: the lowered model is past a bound; nothing was written.
    """
    quality = quality or Quality()
    precision, builder, plugin = _prepare(output, target, precision, fusion, quality, engines, low_memory, force)
    from psamf_edge.compile.stages import calibration_seconds, expected_seconds
    from psamf_edge.compile.work import Work

    work = Work(output, log, expected_seconds())
    if is_calibrated(precision, target):
        work.expect(calibration_seconds(quality.calibrate is not None))
    try:
        bundle = _compile(work, model, output, (target, precision, fusion), builder, plugin, name, force, quality, log)
    except BaseException:
        work.close(done=False)
        raise
    work.close(done=True)
    for file, entry in bundle.files.items():
        log(f"    {file:18} {entry.size / 1e6:8.3f} MB")
    log(f"{output}: {sum(entry.size for entry in bundle.files.values()) / 1e6:.1f} MB, {target}, {precision}")
    return bundle


def _compile(
    work: Work,
    model: Path,
    output: Path,
    how: tuple[str, str, str | None],
    builder: EngineBuilder | None,
    plugin: str | None,
    name: str | None,
    force: bool,
    quality: Quality,
    log: Log,
) -> Bundle:
    """The stages. how: target, precision and fusion."""
    from psamf_edge.compile.export.pack import BundleContent, write_bundle
    from psamf_edge.compile.export.preflight import check_operators
    from psamf_edge.compile.finished import call_digest, finished
    from psamf_edge.compile.quality.stages import GateStages
    from psamf_edge.compile.quantisation.stages import calibrate
    from psamf_edge.compile.source import open_source
    from psamf_edge.compile.stages import (
        ENGINE_S,
        LOAD,
        PACK,
        base_key,
        engine_title,
        export_all,
        lower_all,
        software,
    )

    target, precision, fusion = how
    with work.stage(LOAD):
        source = open_source(model)
    # not on a CPU: after int8, the operation's body takes the fusion 1.07 to 1.14 times as long as PyTorch's form, with
    # the same error (in float32 0.88 to 0.93; ONNX Runtime 1.31, one thread, alternating, medians of 400 at four sizes)
    node = target != "cpu" and source.node
    if fusion in ("kernel", "plugin") and not node:
        raise UsageError(source.no_node)
    segments, key = source.segments(node), base_key(source, node)
    origin = None if builder is None else builder.origin
    title = name or output.stem
    call = call_digest(key, source, how, title, quality, origin)
    if bundle := finished(work, output, call):
        log(f"{output} was finished before, by this very call")
        return bundle
    check_free(output, force)
    exported = export_all(work, source, key, segments, CUT_FUSION if node and fusion in (None, "kernel") else None)
    if builder is not None:
        graphs = [part.plan for each in exported for part in each.parts if isinstance(part.plan, PlanSegment)]
        work.expect({engine_title(step.name): ENGINE_S for step in graphs})
    calibration = None
    if is_calibrated(precision, target):
        calibration = calibrate(work, key, source, exported, precision, quality.calibrate, log)
    parts, parities = lower_all(work, key, exported, precision, target, calibration)
    if target != "cpu":
        check_operators(parts, target, builder, plugin)
    for parity in parities:
        log(f"    {parity.output:18} max abs error {parity.error:.1e}   cosine {parity.cosine:.6f}")
    gate = GateStages(work, key, source, exported, (precision, target), quality, title, log, calibration)
    checked = gate.run(parts, parities)
    if target != "cpu" and checked.parts is not parts:  # some layers were lowered in another way
        check_operators(checked.parts, target, builder, plugin)
    if builder is not None:
        plan, made = _built(builder, checked.parts, segments[0].ranges, plugin, work)
    else:
        plan, made = _exported(checked.parts)
    content = BundleContent(
        name=title,
        target=target,
        precision=precision,
        plan=plan,
        shapes=source.shapes,
        licence=source.licence,
        engines=origin,
        provenance={
            "psamf_edge": psamf_edge.__version__,
            **source.provenance,
            "software": software(),
            "parity": {p.output: {"max_abs_error": p.error, "cosine": p.cosine} for p in checked.parities},
            **({} if calibration is None else {"calibration": calibration.record}),
            "gate": checked.record,
        },
        metrics=source.metrics,
    )
    with work.stage(PACK):
        return write_bundle(
            output, content, source.files | made, force, work.folder, lambda sha256: work.note_packed(call, sha256)
        )


def _prepare(
    output: Path,
    target: str,
    precision: str | None,
    fusion: str | None,
    quality: Quality,
    engines: bool,
    low_memory: bool,
    force: bool,
) -> tuple[str, EngineBuilder | None, str | None]:
    """All that can be found wrong or missing before the model is looked at, and so before any work.

    Returns the precision to compile to; where engines are built here, the builder; and where they take a plugin, which.
    Raises what `compile_bundle` does.
    """
    precision = _check_call(output, target, precision, fusion)
    if quality.calibrate is not None and not is_calibrated(precision, target):
        raise UsageError(
            f"Nothing is calibrated for {target} in {precision}: leave out --calibrate, or take --precision int8 or fp8"
            " for rtx or tensorrt."
        )
    _check_engines(target, fusion, engines, low_memory)
    _check_packages()
    check_free(output, force or was_packed(output))
    if target == "cpu" or not engines:
        return precision, None, None
    from psamf_edge.backends.engine_builder import BuildOptions
    from psamf_edge.backends.engines import check_capability
    from psamf_edge.compile.engines.target import open_builder

    builder = open_builder(target, BuildOptions(low_memory or BuildOptions.from_environment().low_memory))
    check_capability(precision, builder.origin.capability)
    return precision, builder, builder.plugin() if fusion == "plugin" else None


def _check_call(output: Path, target: str, precision: str | None, fusion: str | None) -> str:
    """The precision to compile to. Raises UsageError: a wrong combination."""
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
    if fusion == "plugin" and target != "tensorrt":
        raise UsageError(f"The target {target} takes no plugins, full TensorRT alone does: use --fusion kernel.")
    if output.suffix != ".psamf":
        raise UsageError(f"A bundle's name ends in .psamf: write {output.name}.psamf in place of {output.name}.")
    return precision


def _check_engines(target: str, fusion: str | None, engines: bool, low_memory: bool) -> None:
    if target == "cpu" and (low_memory or not engines):
        raise UsageError("The target cpu has no engines: leave out --no-engines and --low-memory.")
    if fusion == "plugin" and not engines:
        raise UsageError("Which plugin an engine takes depends on its TensorRT: leave out --no-engines.")
    if low_memory and not engines:
        raise UsageError(
            "With --no-engines nothing is built here: leave out --low-memory, and set PSAMF_EDGE_LOW_MEMORY=1 on the"
            " device that builds."
        )


def _check_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Compiling needs {', '.join(missing)}, not installed here: `pip install psamf-edge[compile]`."
        )


def _exported(parts: list[Part]) -> tuple[tuple[PlanSegment | PlanKernel, ...], dict[str, bytes]]:
    """The plan of a bundle without engines, and its files: graphs, and the kernels' weights and code."""
    from psamf_edge.compile.engines.kernel_files import kernel_files
    from psamf_edge.compile.export.partition import KernelPart

    plan, files = [], {}
    for part in parts:
        if isinstance(part, KernelPart):
            step, made = kernel_files(part)
        else:
            step, made = part.plan, {part.plan.file: part.model.SerializeToString()}
        plan.append(step)
        files |= made
    return tuple(plan), files


def _built(
    builder: EngineBuilder, parts: list[Part], ranges: Ranges, plugin: str | None, work: Work
) -> tuple[tuple[PlanSegment | PlanKernel, ...], dict[str, bytes]]:
    """The plan of a bundle with engines, and its files: graphs and engines, and the kernels' weights and code.

    plugin: how a node of our kernel that is left in a graph gets into the engine; None: as its body of operators.
    """
    from psamf_edge.compile.engines.kernel_files import kernel_files
    from psamf_edge.compile.export.partition import KernelPart, has_kernel_nodes
    from psamf_edge.compile.stages import engine_title
    from psamf_edge.kernels.plugin.onnx_node import for_plugin

    plan, files = [], {}
    for part in parts:
        if isinstance(part, KernelPart):
            step, made = kernel_files(part)
        else:
            step, model = replace(part.plan, engine=f"{part.plan.name}.engine"), part.model
            if plugin is not None and has_kernel_nodes(model):
                step, model = replace(step, plugin=plugin), for_plugin(model)
            graph = model.SerializeToString()

            def build(step: PlanSegment = step, graph: bytes = graph) -> dict[str, bytes]:
                return {step.engine: builder.build(graph, step.name, ranges, step.plugin)}

            key = {
                "step": asdict(step),
                "graph": sha256(graph).hexdigest(),
                "ranges": ranges,
                "origin": asdict(builder.origin),
            }
            made = {step.file: graph, **work.once(engine_title(step.name), f"engine-{step.name}", key, build)}
        plan.append(step)
        files |= made
    return tuple(plan), files
