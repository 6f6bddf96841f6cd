"""The processes of benchmarks.cpu_choices: `python -m benchmarks.cpu_child REQUEST`, which answers in JSON.

In a process of its own a setting has its own memory, and a pretended processor its own ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as psamf_edge.cli does; before NumPy is imported

import numpy as np

from benchmarks import older_cpu
from benchmarks.measure import take_turns

if TYPE_CHECKING:  # ONNX Runtime is imported where it is used: after the processor was pretended
    import onnxruntime as ort

    from psamf_edge.bundle import Bundle
    from psamf_edge.plan import Features, Outputs

FACE_NETS = {  # with the shape and type of what each is given for one frame
    "face_detector.onnx": ((1, 3, 128, 128), np.float32),
    "face_mesh.onnx": ((1, 3, 192, 192), np.float32),
    "expression.onnx": ((1, 48, 48), np.uint8),
}
WARMUP = 5


def main() -> None:
    """Serve the one request."""
    request = json.loads(sys.argv[1])
    if "without" in request:
        older_cpu.pretend(Path(request["site"]), request["without"])
    print(json.dumps({"precisions": precisions, "settings": settings}[request["task"]](request)))


def precisions(request: dict) -> dict:
    """Every precision on this processor: the scores of the check set, then milliseconds, taking turns."""
    from psamf_edge.bench.stages import utterance
    from psamf_edge.bundle import open_bundle
    from psamf_edge.compile.quality.check_set import check_set

    bundle = open_bundle(request["bundle"])
    plans = {name: plan_of(bundle, how["files"], exact=how["exact"]) for name, how in request["precisions"].items()}
    samples = check_set(bundle.read("vocab.txt"), bundle.shapes)
    scores = {name: [plan(sample.features).score for sample in samples] for name, plan in plans.items()}
    features = utterance(bundle.shapes)
    rivals = {name: lambda plan=plan: plan(features) for name, plan in plans.items()}
    return {"scores": scores, "ms": take_turns(rivals, request["rounds"], WARMUP)}


def settings(request: dict) -> dict:
    """One setting: milliseconds to open the model, of an utterance, and of the face nets for a frame; memory."""
    import onnxruntime as ort

    from psamf_edge.bench.memory import resident_mb
    from psamf_edge.bench.stages import utterance
    from psamf_edge.bundle import open_bundle

    bundle, chosen = open_bundle(request["bundle"]), dict(request["settings"])
    chosen["level"] = ort.GraphOptimizationLevel.__members__[chosen["level"]]
    features = utterance(bundle.shapes)
    before = resident_mb()
    start = time.perf_counter()
    plan = plan_of(bundle, **chosen)
    opened = 1e3 * (time.perf_counter() - start)
    nets = face_nets(bundle, **chosen)
    rivals = {"model": lambda: plan(features), "face": lambda: [net.run(None, feed) for net, feed in nets]}
    times = take_turns(rivals, request["rounds"], WARMUP)
    after = resident_mb()
    return {"open": [opened], **times, "mb": [after[0] - before[0]] if before and after else []}


def plan_of(bundle: Bundle, files: Mapping[str, str] | None = None, **chosen: Any) -> Callable[[Features], Outputs]:
    """The bundle's plan, a session for each segment.

    Args:
        bundle: whose plan, and whose files of the segments that are not in `files`.
        files: of some segments, by name.
        chosen: as `session` takes it.
    """
    from psamf_edge.plan import score

    sessions = {}
    for segment in bundle.plan:
        path = (files or {}).get(segment.name)
        sessions[segment.name] = session(Path(path).read_bytes() if path else bundle.read(segment.file), **chosen)

    def run_step(step, inputs):
        return dict(zip(step.outputs, sessions[step.name].run(list(step.outputs), inputs), strict=True))

    return lambda features: score(bundle, run_step, features)


def face_nets(bundle: Bundle, **chosen: Any) -> list[tuple[ort.InferenceSession, dict[str, np.ndarray]]]:
    """The nets of the face path with what each is fed for a frame."""
    rng, nets = np.random.default_rng(0), []
    for name, (shape, kind) in FACE_NETS.items():
        net = session(bundle.read(name), **chosen)
        pixels = rng.integers(0, 256, shape) if kind is np.uint8 else rng.random(shape)
        nets.append((net, {net.get_inputs()[0].name: pixels.astype(kind)}))
    return nets


def session(content: bytes, fused: bool = False, exact: bool = False, **chosen: Any) -> ort.InferenceSession:
    """A session as `open_session` makes it, but for what is chosen otherwise.

    Args:
        content: the model.
        fused: also with the fusions that `open_session` leaves out.
        exact: ask ONNX Runtime for its slower int8 products where its fast ones saturate.
        chosen: as `session_options` takes it.
    """
    import onnxruntime as ort

    from psamf_edge.backends.sessions import DISABLED, session_options

    options = session_options(**chosen)
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    disabled = [] if fused else list(DISABLED)
    return ort.InferenceSession(content, options, ["CPUExecutionProvider"], disabled_optimizers=disabled)


if __name__ == "__main__":
    main()
