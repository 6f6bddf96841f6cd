"""What the model's precision and ONNX Runtime's settings cost on CPUs: python -m benchmarks.cpu_choices

Two experiments on random utterances of ten seconds. Precisions: each on this processor, and on older ones that it
pretends to be (see benchmarks.older_cpu), with what each moves the scores of the check set by. Settings: every
combination of optimisation level, threads, arena and spinning, in float32 and int8, each in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from benchmarks.measure import busy_cores, machine, save
from benchmarks.older_cpu import PROCESSORS, UnavailableError, flags, prepare
from psamf_edge.compile.command import compile_bundle
from psamf_edge.compile.export.precision import INT8_SEGMENTS
from psamf_edge.compile.export.quantise import HOW, quantise
from psamf_edge.compile.source import DEFAULT_WEIGHTS

ROOT = Path(__file__).parents[1]
FULL = {**HOW, "reduce_range": False}
FP32 = "fp32"
HERE = "this processor"
WAYS = {  # of quantising, by name; None: not with `quantise`
    "int8 as compiled: 7 bits, by channel": HOW,
    "int8, 8 bits": FULL,
    "int8, 8 bits, x64quantprecision": FULL,
    "int8, 8 bits, unsigned": {**FULL, "weight_type": QuantType.QUInt8},
    "int8, 8 bits, by tensor": {**FULL, "per_channel": False},
    "int8, 8 bits, by blocks of 32 (MatMulNBits)": None,
}
EXACT = "int8, 8 bits, x64quantprecision"
LEVELS = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "basic": "ORT_ENABLE_BASIC",
          "off": "ORT_DISABLE_ALL"}  # fmt: skip
PASSES = 3  # over all settings, so that a slow minute does not fall on one setting alone


def quantised(model: onnx.ModelProto, how: Mapping | None) -> onnx.ModelProto:
    """One of WAYS."""
    if how is not None:
        return quantise(model, how=how)
    blocks = MatMulNBitsQuantizer(model, bits=8, block_size=32, is_symmetric=True, accuracy_level=4)  # 4: int8 products
    blocks.process()
    return blocks.model.model


def write_precisions(fp32: Path, folder: Path) -> dict[str, dict]:
    """Each precision's files of the segments that are quantised, by name; float32 has those of the bundle."""
    found: dict[str, dict] = {FP32: {"files": {}, "exact": False}}
    for number, (name, how) in enumerate(WAYS.items()):
        files = {segment: str(folder / f"{segment}-{number}.onnx") for segment in INT8_SEGMENTS}
        for segment, path in files.items():
            onnx.save(quantised(onnx.load(fp32 / f"{segment}.onnx"), how), path)
        found[name] = {"files": files, "exact": name == EXACT}
    return found


def child(request: dict, site: Path | None = None) -> dict:
    """The answer of benchmarks.cpu_child. site: a folder with the ONNX Runtime to use in place of the installed one."""
    paths = [str(site)] * (site is not None) + [os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.cpu_child", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_precisions(fp32: Path, folder: Path, rounds: int) -> dict[str, dict]:
    """A record for each processor, this one first; where one cannot be pretended, why."""
    request = {"task": "precisions", "bundle": str(fp32), "rounds": rounds}
    request["precisions"] = write_precisions(fp32, folder)
    found = {HERE: child(request)}
    try:
        site = prepare(folder / "site")
    except UnavailableError as error:
        return found | {processor.name: {"unavailable": str(error)} for processor in PROCESSORS}
    for processor in PROCESSORS:
        if processor.suits(flags()):
            found[processor.name] = child(request | {"site": str(site), "without": processor.without}, site)
        else:
            found[processor.name] = {"unavailable": "this processor is no newer than that"}
    return found


def with_gaps(processors: dict[str, dict]) -> dict[str, dict]:
    """The records with, in place of scores, how far each precision's are from float32 there, and from its own here."""
    here = processors[HERE]["scores"]
    found = {}
    for name, record in processors.items():
        found[name] = record
        if "scores" in record:
            scores = record["scores"]
            gaps = {
                p: {"fp32": gap(values, scores[FP32]), "here": gap(values, here[p])} for p, values in scores.items()
            }
            found[name] = {"ms": record["ms"], "gap": gaps}
    return found


def gap(scores: list[float], others: list[float]) -> dict[str, float]:
    """Mean and greatest difference."""
    differences = np.abs(np.subtract(scores, others))
    return {"mean": round(float(differences.mean()), 5), "worst": round(float(differences.max()), 5)}


def all_settings() -> Iterator[dict]:
    """Every combination; threads that never wait cannot spin."""
    for level, threads, arena, spinning in itertools.product(LEVELS.values(), (1, 2), (True, False), (False, True)):
        if threads > 1 or not spinning:
            yield {"level": level, "threads": threads, "arena": arena, "spinning": spinning}
    yield {"level": LEVELS["all"], "threads": 1, "arena": True, "spinning": False, "fused": True}


def measure_settings(bundles: dict[str, Path], rounds: int) -> list[dict]:
    """A row for each precision and setting, with the samples of all passes."""
    rows = [{"precision": name, "settings": chosen} for name in bundles for chosen in all_settings()]
    for turn in range(PASSES):
        for row in rows if turn % 2 == 0 else reversed(rows):
            request = {"task": "settings", "bundle": str(bundles[row["precision"]]), "settings": row["settings"]}
            answer = child(request | {"rounds": max(1, rounds // PASSES)})
            samples = row.setdefault("samples", {})
            for name, values in answer.items():
                samples.setdefault(name, []).extend(round(value, 3) for value in values)
        print(f"settings: pass {turn + 1} of {PASSES}", file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="calls of each rival")
    parser.add_argument("--output", type=Path, help="elsewhere than benchmarks/results/cpu_choices.json")
    arguments = parser.parse_args()
    busy = busy_cores()  # before anything of ours runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundles = {precision: folder / f"{precision}.psamf" for precision in (FP32, "int8")}
        compile_bundle(DEFAULT_WEIGHTS, bundles[FP32], "cpu", FP32)
        compile_bundle(bundles[FP32], bundles["int8"], "cpu", "int8")
        processors = with_gaps(measure_precisions(bundles[FP32], folder, arguments.rounds))
        record = {
            "machine": {**machine(), "busy_cores": busy},
            "processors": processors,
            "settings": measure_settings(bundles, arguments.rounds),
        }
    print(f"written to {save('cpu_choices', record, arguments.output)}", file=sys.stderr)


if __name__ == "__main__":
    main()
