"""The whole run: cold starts, stages, lengths, throughput, memory and energy of every model, one record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from psamf_edge.bench.caveats import COPIES, caveats
from psamf_edge.bench.conditions import describe_machine, look, usable_cores
from psamf_edge.bench.copies import copy_ms, input_bytes
from psamf_edge.bench.energy import Meter, find_meters
from psamf_edge.bench.nvml import Nvml, NvmlError
from psamf_edge.bench.processes import ENERGY, Job, cold_start, throughput
from psamf_edge.bench.record import Record
from psamf_edge.bench.series import Series
from psamf_edge.bench.stages import CLIP, TimedModel, clip_stages, fits, model_lengths
from psamf_edge.bundle import DEFAULT_BUNDLE
from psamf_edge.errors import UsageError
from psamf_edge.result import Result

SAMPLE = DEFAULT_BUNDLE.parent / "sample.mp4"
LENGTHS = ((10, 2.0), (25, 5.0), (50, 10.0), (100, 20.0))  # tokens and seconds of a fast speaker: five tokens a second
IDLE_S = 2.0  # of the power that nothing of ours draws: a hundred readings of a sensor, twenty updates of NVML
COLD_SHARE = 5  # one cold start for so many rounds: each takes about as long as two rounds, and varies less
LEAST_CLIPS = 3  # of each process in a throughput: fewer, and the ends of the window weigh most

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Args:
        clip: a media file.
        bundles: to compare; None is the one that ships.
        text: what is said in the clip, if given.
        device, threads: as for Analyzer.
        rounds, warmup: clips that count and that do not, of each model.
        concurrency: numbers of processes.
        lengths: of utterances for the model alone, (tokens, seconds); None for LENGTHS, as far as the models take them.
        limits: as for Analyzer.

    Raises:
        UsageError: a bundle is named twice.
    """

    clip: Path = SAMPLE
    bundles: tuple[Path | None, ...] = (None,)
    text: str | None = None
    device: str = "auto"
    threads: int = 1
    rounds: int = 30
    warmup: int = 3
    concurrency: tuple[int, ...] = ()
    lengths: tuple[tuple[int, float], ...] | None = None
    limits: Mapping[str, int] | None = None

    def labels(self) -> dict[str, Path | None]:
        """A short name for each bundle."""
        names = ["default" if bundle is None else bundle.name.removesuffix(".psamf") for bundle in self.bundles]
        long = [str(b) if names.count(name) > 1 and b else name for name, b in zip(names, self.bundles, strict=True)]
        if len(set(long)) < len(long):
            raise UsageError("The same bundle was given twice; name each once.")
        return dict(zip(long, self.bundles, strict=True))


def run(settings: Settings, say: Say = lambda message: None) -> Record:
    """Measure everything; `say` is told what is going on.

    Raises:
        UsageError, MissingDependencyError, IntegrityError, InputError: as Analyzer and its call do.
    """
    concurrency = settings.concurrency or tuple(sorted({1, usable_cores()}))
    labels = settings.labels()
    jobs = {
        label: Job.of(bundle, settings.device, settings.threads, settings.clip, settings.text, settings.limits)
        for label, bundle in labels.items()
    }
    taken, machine = datetime.now(timezone.utc).isoformat(timespec="seconds"), describe_machine()
    with ExitStack() as stack:
        before, began = look(idle=True), time.perf_counter()
        models = {
            label: stack.enter_context(TimedModel(bundle, settings.device, settings.threads, settings.limits))
            for label, bundle in labels.items()
        }
        say("each model once")
        results = {label: model.analyzer(settings.clip, text=settings.text) for label, model in models.items()}
        lengths = chosen_lengths(settings, models)
        on_gpu = {label: uses_gpu(result) for label, result in results.items()}
        gpu, notes = _open_gpu(stack) if any(on_gpu.values()) else (None, [])
        say(f"{settings.clip.name}, {settings.warmup + settings.rounds} rounds")
        series = clip_stages(models, settings.clip, settings.text, settings.rounds, settings.warmup)
        series += [copies for label, model in models.items() for copies in _copies(label, model, settings, notes)]
        say("the model at several lengths")
        series += model_lengths(models, lengths, settings.rounds, settings.warmup)
        after, elapsed = look(gpu), time.perf_counter() - began
        described = {label: _describe(models[label], result) for label, result in results.items()}
    with ExitStack() as stack:  # the models are closed: what follows has the machine for itself
        gpu = _open_gpu(stack)[0] if gpu else None
        cold = min(settings.rounds, max(3, settings.rounds // COLD_SHARE))
        say(f"{cold} cold starts")
        series = cold_start(jobs, cold) + series
        meters, reasons = find_meters(gpu)
        series += idle_power(meters)
        for label, job in jobs.items():
            for processes in concurrency:
                say(f"{label}: {processes} at the same time")
                clips = max(LEAST_CLIPS, math.ceil(settings.rounds / processes))
                series += throughput(label, job, processes, clips, settings.warmup, meters, on_gpu[label])
    result = next(iter(results.values()))
    chosen = replace(settings, concurrency=concurrency, lengths=tuple(lengths))
    return Record(
        taken=taken,
        machine=machine,
        settings={**asdict(chosen), "clip": str(settings.clip), "bundles": list(labels)},
        clip={"name": settings.clip.name, "sha256": result.sha256, "duration_ms": result.duration_ms,
              "utterances": len(result.segments)},
        models=described,
        conditions={"before": before.as_dict(), "after": after.as_dict(), "elapsed_s": round(elapsed, 1)},
        notes=[*notes, *reasons],
        warnings=caveats(series, machine, before, after, elapsed),
        series=series,
    )  # fmt: skip


def chosen_lengths(settings: Settings, models: dict[str, TimedModel]) -> list[tuple[int, float]]:
    """The lengths that were asked for, or those of LENGTHS that every model takes. Raises UsageError."""
    shapes = {label: model.bundle.shapes for label, model in models.items()}
    if settings.lengths is None:
        return [each for each in LENGTHS if all(fits(sizes, *each) for sizes in shapes.values())]
    for tokens, seconds in settings.lengths:
        for label, sizes in shapes.items():
            if not fits(sizes, tokens, seconds):
                longest = sizes.max_face_frames / sizes.face_rate
                raise UsageError(
                    f"The length {tokens}:{seconds:g} does not fit {label}, which takes 1 to {sizes.max_tokens} tokens"
                    f" and up to {longest:g} s."
                )
    return list(settings.lengths)


def uses_gpu(result: Result) -> bool:
    """Whether a model ran on a GPU."""
    return result.model.backend != "onnxruntime"


def idle_power(meters: list[Meter]) -> list[Series]:
    """Watts of each meter while nothing of ours runs."""
    if not meters:
        return []
    for meter in meters:
        meter.start()
    start = time.perf_counter()
    time.sleep(IDLE_S)
    joules = [meter.stop() for meter in meters]
    seconds = time.perf_counter() - start
    return [Series("idle", ENERGY, f"{meter.name}, idle power", "W", (value / seconds,))
            for meter, value in zip(meters, joules, strict=True)]  # fmt: skip


def _copies(label: str, model: TimedModel, settings: Settings, notes: list[str]) -> Iterator[Series]:
    """Of one clip, where the model has a GPU with memory of its own."""
    if model.timer.name != "tensorrt":
        return
    from psamf_edge.backends.driver import open_driver

    sizes = [input_bytes(features) for features in model.timer.utterances]
    driver = open_driver()
    try:
        if driver.shares_memory:
            notes.append(f"{label} copies nothing: its GPU shares the host's memory.")
        elif sizes:
            yield Series(label, CLIP, COPIES, "ms", tuple(copy_ms(driver, sizes, settings.rounds, settings.warmup)))
    finally:
        driver.close()


def _open_gpu(stack: ExitStack) -> tuple[Nvml | None, list[str]]:
    try:
        gpu = Nvml()
    except NvmlError as error:
        return None, [f"The GPU's memory, energy and clocks were not measured: {error}."]
    stack.callback(gpu.close)
    return gpu, []


def _describe(model: TimedModel, result: Result) -> dict:
    bundle = model.bundle
    return {
        "name": bundle.name,
        "target": bundle.target,
        "precision": result.model.precision,
        "backend": result.model.backend,
        "manifest_sha256": bundle.manifest_sha256,
        "size_mb": round(sum(entry.size for entry in bundle.files.values()) / 1e6, 2),
        "note": model.analyzer.note,
        "score": round(result.score, 4),
    }
