"""Where the time of a clip goes: its stages, the segments inside the model, and the model at several lengths."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from psamf_edge.analyzer import Analyzer
from psamf_edge.backends import Backend
from psamf_edge.bench.series import Series, take_turns
from psamf_edge.bundle import Bundle, PlanKernel, PlanSegment, Shapes, open_bundle
from psamf_edge.plan import Features, Outputs, Tensors, score

CLIP = "clip"  # the group of the series that `clip_stages` gives
WHOLE, REST = "whole", "rest"  # of a clip, and what of it no stage accounts for
MODEL = "model"

OnRound = Callable[[int, int], None]


class SegmentTimer:
    """A backend that also notes how long each segment takes, where that can be seen from outside.

    ONNX Runtime runs one segment after the other. On a GPU they overlap, or are one graph, and only the whole is timed.

    ms: milliseconds by segment since `reset`. utterances: what was scored since then.
    """

    def __init__(self, backend: Backend, bundle: Bundle) -> None:
        self.name, self.precision, self.note = backend.name, backend.precision, backend.note
        self._backend, self._bundle = backend, bundle
        self._run_step = getattr(backend, "_run_segment", None)
        self.reset()

    def reset(self) -> None:
        """Forget what was noted."""
        self.ms: Counter[str] = Counter()
        self.utterances: list[Features] = []

    def run(self, features: Features) -> Outputs:
        """As `Backend.run`."""
        self.utterances.append(features)
        return self._backend.run(features) if self._run_step is None else score(self._bundle, self._timed, features)

    def close(self) -> None:
        """As `Backend.close`."""
        self._backend.close()

    def _timed(self, step: PlanSegment | PlanKernel, inputs: dict[str, np.ndarray]) -> Tensors:
        start = time.perf_counter()
        outputs = self._run_step(step, inputs)
        self.ms[step.name] += 1e3 * (time.perf_counter() - start)
        return outputs


class TimedModel:
    """An Analyzer whose model tells the time of its segments; a context manager. Arguments as for Analyzer."""

    def __init__(
        self,
        bundle: Path | str | None,
        device: str = "auto",
        threads: int = 1,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.bundle = open_bundle(bundle)
        self.analyzer = Analyzer(bundle, device, threads, limits=limits)
        scorer = self.analyzer._scorer
        self.timer = scorer._backend = SegmentTimer(scorer._backend, self.bundle)

    def clip(self, clip: Path, text: str | None) -> dict[str, float]:
        """Milliseconds by stage of one clip: those of the result, the segments, the whole, and the rest of it."""
        self.timer.reset()
        start = time.perf_counter()
        stages = self.analyzer(clip, text=text).timing_ms
        whole = 1e3 * (time.perf_counter() - start)
        stages = {name: ms for name, ms in stages.items() if name not in ("total", MODEL)} | {MODEL: stages[MODEL]}
        rest = max(0.0, whole - sum(stages.values()))
        return {WHOLE: whole, **stages, **self._segments(), REST: rest}

    def utterance(self, features: Features) -> dict[str, float]:
        """Milliseconds of the model and of its segments for one utterance."""
        self.timer.reset()
        start = time.perf_counter()
        self.timer.run(features)
        whole = 1e3 * (time.perf_counter() - start)
        return {MODEL: whole, **self._segments()}

    def _segments(self) -> dict[str, float]:
        return {f"{MODEL}/{name}": ms for name, ms in self.timer.ms.items()}

    def close(self) -> None:
        """Close the analyzer."""
        self.analyzer.close()

    def __enter__(self) -> TimedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def clip_stages(
    models: Mapping[str, TimedModel],
    clip: Path,
    text: str | None,
    rounds: int,
    warmup: int = 3,
    on_round: OnRound | None = None,
) -> list[Series]:
    """The clip again and again, every model in turn: a series for each stage."""
    records: dict[str, list[dict[str, float]]] = {label: [] for label in models}
    take_turns(
        {label: lambda label=label, model=model: records[label].append(model.clip(clip, text))
         for label, model in models.items()},
        rounds, warmup, on_round,
    )  # fmt: skip
    return [series for label, found in records.items() for series in by_name(label, CLIP, found[warmup:])]


def length_group(tokens: int, seconds: float) -> str:
    """The group of the series of one length."""
    return f"model, {tokens} tokens and {seconds:g} s"


def model_lengths(
    models: Mapping[str, TimedModel],
    lengths: list[tuple[int, float]],
    rounds: int,
    warmup: int = 3,
    on_round: OnRound | None = None,
) -> list[Series]:
    """The model alone at several lengths of (tokens, seconds of voice and face); models and lengths take turns."""
    records: dict[tuple[str, str], list[dict[str, float]]] = {}
    rivals: dict[str, Callable[[], object]] = {}
    for tokens, seconds in lengths:
        for label, model in models.items():
            found = records[label, length_group(tokens, seconds)] = []
            features = utterance(model.bundle.shapes, tokens, seconds)
            rivals[f"{label} {tokens} {seconds}"] = lambda model=model, features=features, found=found: found.append(
                model.utterance(features)
            )
    take_turns(rivals, rounds, warmup, on_round)
    return [s for (label, group), found in records.items() for s in by_name(label, group, found[warmup:])]


def utterance(shapes: Shapes, tokens: int = 50, seconds: float = 10) -> Features:
    """An utterance of random but always the same words, voice and face; by default of ten seconds.

    The time of a network does not depend on its input's values, only on their number.
    """
    rng = np.random.default_rng(0)
    hops, frames = round(1000 * seconds / shapes.audio_hop_ms), round(seconds * shapes.face_rate)
    return Features(
        rng.integers(0, shapes.vocabulary, tokens),  # (L,)
        rng.normal(size=(hops, shapes.audio_features)).astype(np.float32),  # (Ta, 63)
        rng.normal(size=(frames, shapes.face_features)).astype(np.float32),  # (Tv, F)
    )


def fits(shapes: Shapes, tokens: int, seconds: float) -> bool:
    """Whether the model takes an utterance of this length whole."""
    longest = min(shapes.max_audio_hops * shapes.audio_hop_ms / 1000, shapes.max_face_frames / shapes.face_rate)
    return 1 <= tokens <= shapes.max_tokens and 1 / shapes.face_rate <= seconds <= longest


def by_name(model: str, group: str, records: list[dict[str, float]], unit: str = "ms") -> list[Series]:
    """A series for each name of the records, 0 in a round that lacks it."""
    names = dict.fromkeys(name for record in records for name in record)
    return [Series(model, group, name, unit, tuple(record.get(name, 0.0) for record in records)) for name in names]
