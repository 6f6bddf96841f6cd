"""Tables of benchmarks.peers and benchmarks.cpu_choices. Nothing here needs PyTorch."""

from __future__ import annotations

import numpy as np

from benchmarks.tables import table

BUSY = 0.2  # cores that others may use: a tenth of the two that a small machine has


def peers(record: dict) -> str:
    """Latency, memory and scores of this model and its rivals; then those that could not run, and why."""
    header = ["one utterance", "threads", "p50 ms", "p90", "p95", "p99", "time", "resident MB", "memory", "score apart"]
    ours: dict[int, dict] = {}  # the first row of each number of threads
    lines, absent = [], {}
    for row in record["peers"]:
        if "unavailable" in row:
            absent.setdefault(row["unavailable"], dict.fromkeys([row["name"]])).setdefault(row["name"])
            continue
        mine = ours.setdefault(row["threads"], row)
        apart = "-" if row["difference"] is None else f"{row['difference']['worst']:.3f}"
        lines.append([row["name"], str(row["threads"]), *(f"{row[name]:.1f}" for name in ("p50", "p90", "p95", "p99")),
                      f"{row['ratio']['value']:.1f} x", f"{row['resident_mb']:.0f}",
                      f"{row['resident_mb'] / mine['resident_mb']:.1f} x", apart])  # fmt: skip
    lengths = record["lengths"]
    tokens, frames = ([each[name] for each in lengths] for name in ("tokens", "frames"))  # ten frames a second
    where = (
        f"{_cpu(record)} {len(lengths)} utterances of {min(tokens)} to {max(tokens)} tokens and {min(frames) / 10:g}"
        f" to {max(frames) / 10:g} s; PSA-MF pads them to 50 tokens and 500 steps. Time: the median over all turns of"
        " the ratio to ours. Score apart: the greatest difference from PyTorch in float32."
    )
    left_out = [f"{reason[0].upper()}{reason[1:]}: {'; '.join(names)}." for reason, names in absent.items()]
    return "\n\n".join([table(header, lines), *left_out, where])


def precisions(record: dict) -> str:
    """Each precision on each processor: its time, and what it moves scores by."""
    processors = {name: each for name, each in record["processors"].items() if "ms" in each}
    names = list(next(iter(processors.values()))["ms"])
    times, moved = [], []
    for name in names:
        medians = [np.median(each["ms"][name]) for each in processors.values()]
        faster = [np.median(each["ms"][names[0]]) / ms for each, ms in zip(processors.values(), medians, strict=True)]
        times.append([name, *(f"{ms:.1f} ({by:.1f} x)" for ms, by in zip(medians, faster, strict=True))])
        gaps = [each["gap"][name] for each in processors.values()]
        moved.append([name, *(f"{gap['fp32']['worst']:.3f}, {gap['here']['worst']:.3f}" for gap in gaps)])
    absent = [f"{name}: {each['unavailable']}." for name, each in record["processors"].items() if "ms" not in each]
    first = table(["p50 ms of an utterance of 10 s (times as fast as fp32)", *processors], times)
    second = table(["greatest difference of a score from fp32, and from this processor's", *processors], moved)
    return "\n\n".join([first, second, *absent, _cpu(record)])


SHOWN_SETTINGS = {  # what is changed from the default
    "as it is: all optimisations, one thread, no arena, no spinning": {},
    "optimisation: extended": {"level": "ORT_ENABLE_EXTENDED"},
    "optimisation: basic": {"level": "ORT_ENABLE_BASIC"},
    "optimisation: off": {"level": "ORT_DISABLE_ALL"},
    "two threads": {"threads": 2},
    "two threads, spinning": {"threads": 2, "spinning": True},
    "arena": {"arena": True},
    "arena, with SkipLayerNormFusion": {"arena": True, "fused": True},
}
DEFAULT_SETTINGS = {"level": "ORT_ENABLE_ALL", "threads": 1, "arena": False, "spinning": False}
SHOWN_FIGURES = {  # precision and name of the samples
    "int8 p50 ms": ("int8", "model"),
    "fp32 p50 ms": ("fp32", "model"),
    "face nets of a frame, p50 ms": ("int8", "face"),
    "int8 opens in ms": ("int8", "open"),
    "int8 and face nets, MB": ("int8", "mb"),
    "fp32 and face nets, MB": ("fp32", "mb"),
}


def settings(record: dict) -> str:
    """One setting changed at a time; all combinations are in the result file."""
    lines = []
    for title, change in SHOWN_SETTINGS.items():
        chosen = DEFAULT_SETTINGS | change
        rows = {row["precision"]: row["samples"] for row in record["settings"] if row["settings"] == chosen}
        cells = [float(np.median(rows[precision][name])) for precision, name in SHOWN_FIGURES.values()]
        lines.append([title, *(f"{value:.1f}" for value in cells[:3]), *(f"{value:.0f}" for value in cells[3:])])
    return f"{table(['settings', *SHOWN_FIGURES], lines)}\n\n{_cpu(record)}"


def _cpu(record: dict) -> str:
    """The machine, and that the figures mislead where others were at work on it."""
    m = record["machine"]
    versions = ", ".join(f"{name} {m[name]}" for name in ("onnxruntime", "torch") if name in m)
    busy = m["busy_cores"] or 0.0  # None: the system does not tell
    caveat = f" Others kept {busy:.1f} cores busy: do not rely on the times." if busy > BUSY else ""
    return f"{m['cpu']}, {m['cores']} cores, {versions}, {m['date']}.{caveat}"
