"""The latency table of the README, in one run: python -m benchmarks.clip_latency [--clip CLIP] [--rounds N]

Stages of a clip, cold (a new process for each run) and warm; import and load time; memory; then the int8 model beside
the same model in PyTorch and beside PSA-MF at its released size, taking turns, one thread each.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as psamf_edge.cli does; before NumPy is imported

import numpy as np

from benchmarks.measure import machine, save, summary, take_turns
from psamf_edge.backends import open_backend
from psamf_edge.bench.memory import child_processes, resident_mb
from psamf_edge.bench.processes import Job, cold_start
from psamf_edge.bench.stages import WHOLE, TimedModel, clip_stages, utterance
from psamf_edge.bench.suite import SAMPLE
from psamf_edge.bundle import open_bundle

ROOT = Path(__file__).parents[1]
COLD = {"import": "import", "load": "load", "first clip": "score", "peak memory": "peak_mb"}  # their names in the file


def cold_runs(clip: Path, text: str, runs: int) -> dict[str, dict[str, float]]:
    """Each run in a process of its own: import, load, first clip, and the peak memory of the parent process."""
    samples = {each.name: each.samples for each in cold_start({"": Job.of(None, "cpu", 1, clip, text)}, runs)}
    table = {name: summary(samples[measured]) for measured, name in COLD.items()}
    table["import and load"] = summary(np.add(samples["import"], samples["load"]).tolist())
    stages = {name.partition("/")[2]: values for name, values in samples.items() if "/" in name}
    return table | {f"stage {name}": summary(values) for name, values in stages.items()}


def warm_runs(clip: Path, text: str, runs: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The same clip again and again in one process; also its memory, and that of the decoder's process."""
    with TimedModel(None, "cpu") as model:
        found = clip_stages({"": model}, clip, text, runs, warmup=2)
        now, peak = resident_mb()
        children = {f"child {i}": resident_mb(pid)[0] for i, pid in enumerate(child_processes())}
    table = {"clip" if each.name == WHOLE else f"stage {each.name}": summary(each.samples) for each in found}
    return table, {"resident_mb": now, "peak_mb": peak, **children}


def model_rivals(rounds: int) -> dict[str, dict[str, float]]:
    """The shipped model, the same in PyTorch, and the released size, taking turns on one thread."""
    import torch

    from benchmarks.released_size import ReleasedSizePsaMf, example_inputs
    from psamf_edge.compile.model.student import load_student

    torch.set_num_threads(1)
    bundle = open_bundle(None)
    backend = open_backend(bundle, "cpu", threads=1)
    features = utterance(bundle.shapes)
    student = load_student(ROOT / "compile" / "weights" / "default")
    tensors = [torch.from_numpy(x)[None] for x in (features.ids, features.audio, features.face)]
    masks = [torch.ones(x.shape[:2]) for x in tensors]
    # the same four subsets as the runtime asks for: all, and all but one
    present = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float32)[None]
    student_inputs = [x for pair in zip(tensors, masks, strict=True) for x in pair] + [present]
    released = ReleasedSizePsaMf().eval()
    released_inputs = example_inputs()
    with torch.inference_mode():
        times = take_turns(
            {
                f"psamf-edge {bundle.precision}, ONNX Runtime": lambda: backend.run(features),
                "the same model, PyTorch fp32": lambda: student(*student_inputs),
                "PSA-MF at released size, PyTorch fp32": lambda: released(*released_inputs),
            },
            rounds,
        )
    backend.close()
    parameters = {
        "the same model, PyTorch fp32": sum(p.numel() for p in student.parameters()) / 1e6,
        "PSA-MF at released size, PyTorch fp32": sum(p.numel() for p in released.parameters()) / 1e6,
    }
    fastest = np.median(next(iter(times.values())))
    return {
        name: summary(values)
        | {"ratio": round(float(np.median(values) / fastest), 1)}
        | ({"parameters_m": round(parameters[name], 1)} if name in parameters else {})
        for name, values in times.items()
    }


def markdown(title: str, table: dict[str, dict[str, float]]) -> str:
    """A table with the columns that any row has."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
    lines += [f"| {name} | {' | '.join(str(row.get(c, '')) for c in columns)} |" for name, row in table.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, default=SAMPLE)
    parser.add_argument("--text", default="The film is a joy from the first minute to the last; I will see it again.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()

    hardware = machine()
    print(", ".join(f"{name} {value}" for name, value in hardware.items()), end="\n\n")
    cold = cold_runs(arguments.clip, arguments.text, max(3, arguments.rounds // 5))
    print(markdown("cold: a new process each, ms (memory MB)", cold), end="\n\n")
    warm, memory = warm_runs(arguments.clip, arguments.text, arguments.rounds)
    print(markdown("warm, ms", warm), end="\n\n")
    print(", ".join(f"{name} {value:.0f}" for name, value in memory.items()), end="\n\n")
    model = model_rivals(arguments.rounds)
    print(markdown("model: 50 tokens, 10 s, one thread, ms", model))
    if not arguments.no_save:
        path = save(
            "clip_latency",
            {"machine": hardware, "clip": arguments.clip.name, "cold": cold, "warm": warm, "memory": memory,
             "model": model},
        )  # fmt: skip
        print(f"\nwritten to {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
