"""Every version of the block, checked and then timed: python -m psamf_edge.kernels.cross_modal_attention.lab

Needs an NVIDIA GPU, cuda-bindings and NVRTC; compares with PyTorch where one with CUDA is installed. Without a GPU it
ends with one sentence and exit code 3. What is measured goes to benchmarks/results/kernels.json and into README.md.

Columns, in microseconds, medians of CUDA events:
    launched  one run as a caller launches it, L2 warm, the host's part included
    graph     one of many runs inside a CUDA graph, L2 warm
    cold      one run after all of L2 was overwritten
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from psamf_edge.backends.driver import Driver, open_driver
from psamf_edge.errors import MissingDependencyError, PsamfError
from psamf_edge.kernels.compiler import DeviceKernels
from psamf_edge.kernels.cross_modal_attention.limits import total_bytes
from psamf_edge.kernels.cross_modal_attention.rivals import Rival, torch_rivals
from psamf_edge.kernels.cross_modal_attention.timing import GpuClock
from psamf_edge.kernels.cross_modal_attention.validation import Case, draw, error
from psamf_edge.kernels.cross_modal_attention.versions import LAB, VERSIONS, Launch, Sizes, Version, arguments

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results"  # of a checkout
# one query over short and long clips; the four sets of modalities that the runtime asks for; a batch
SHAPES = (Sizes(1, 1, 100, 100), Sizes(1, 1, 500, 500), Sizes(1, 4, 500, 500), Sizes(32, 1, 500, 500))
IN_GRAPH = 20  # runs in one graph, so that launching the graph is a small part of each
COLUMNS = ("launched", "graph", "cold")


class Bench:
    """One driver, one stream, one clock; kernels are compiled once."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.stream = driver, driver.stream()
        self.clock = GpuClock(self.stream)
        self._kernels = DeviceKernels(driver)
        self._graphs: list[int] = []

    def launcher(self, source: Path, launch: Launch, sizes: Sizes, addresses: dict[str, int]) -> Callable[[], None]:
        """A function that puts one launch on the stream."""
        kernel, block = self._kernels.get(source, launch.entry), (launch.threads, 1, 1)
        values = [
            np.uint64(addresses[name]) if name in addresses else np.int32(value)
            for name, value in zip(launch.arguments, arguments(launch, sizes, addresses), strict=True)
        ]
        return lambda: self.driver.launch(kernel, launch.grid, block, 0, self.stream, values)

    def rival(self, version: Version, case: Case, sizes: Sizes) -> Rival:
        """A version on the device with a case's tensors. Everything that it writes holds NaN before."""
        tensors = {name: getattr(case, name) for name in ("query", "audio", "face", "lengths")}
        contexts = np.full((2, sizes.B, sizes.S, case.query.shape[2]), np.nan, version.dtype)
        tensors |= {"weights": version.weights(case), "contexts": contexts}
        tensors |= {name: np.full(count, np.nan, np.float32) for name, count in version.scratch(sizes).items()}
        addresses = {name: self.driver.upload(values) for name, values in tensors.items()}
        launches = [self.launcher(version.source, launch, sizes, addresses) for launch in version.launches(sizes)]

        def enqueue() -> None:
            for launch in launches:
                launch()

        def result() -> np.ndarray:
            back = self.driver.host_buffer(contexts.nbytes, mapped=False)
            self.driver.copy_out(back, addresses["contexts"], contexts.nbytes, self.stream)
            self.driver.synchronise(self.stream)
            return back.array.view(contexts.dtype).reshape(contexts.shape)

        return Rival(version.name, enqueue, partial(self.capture, enqueue), result)

    def nothing(self) -> Rival:
        """An empty kernel: the least that one launch costs."""
        empty = self.launcher(LAB, Launch("nothing", (1, 1, 1), 32, ()), SHAPES[0], {})
        return Rival("empty kernel", empty, partial(self.capture, empty), None)

    def capture(self, enqueue: Callable[[], None], runs: int) -> Callable[[], None]:
        """A function that puts `runs` runs on the stream as one graph."""

        def work() -> None:
            for _ in range(runs):
                enqueue()

        self._graphs.append(self.driver.capture(self.stream, work))
        return partial(self.driver.launch_graph, self._graphs[-1], self.stream)

    def time(self, rival: Rival, rounds: int) -> dict[str, float]:
        """Median microseconds of each column."""
        for _ in range(5):  # module loading, autotuning, clocks
            rival.enqueue()
        self.driver.synchronise(self.stream)
        many, once = rival.capture(IN_GRAPH), rival.capture(1)
        many()
        return {
            "launched": median(self.clock.times(rival.enqueue, rounds)),
            "graph": median(self.clock.times(many, rounds)) / IN_GRAPH,
            "cold": median(self.clock.times(once, rounds, cold=True)),
        }

    def close(self) -> None:
        """Give back what the driver does not know of."""
        for graph in self._graphs:
            self.driver.free_graph(graph)
        self._graphs = []
        self.clock.close()


@contextmanager
def open_bench() -> Iterator[Bench]:
    """A bench on the first GPU. Raises MissingDependencyError: there is none, or a package is missing."""
    driver = open_driver()
    try:
        with driver.current():
            bench = Bench(driver)
            try:
                yield bench
            finally:
                bench.close()
    finally:
        driver.close()


def validate(bench: Bench, seed: int) -> list[tuple[str, Sizes, float, float]]:
    """Every version on every shape with fresh inputs: (name, sizes, error, allowed).

    Raises:
        PsamfError: one is wrong. Nothing is timed then.
    """
    rng, rows = np.random.default_rng(seed), []
    for sizes in (Sizes(1, 1, 0, 1), Sizes(2, 3, 129, 33), Sizes(1, 2, 2048, 500), *SHAPES[:3]):
        for version in VERSIONS:
            case = draw(rng, version.dtype, (sizes.B, sizes.S, sizes.Ta, sizes.Tv))
            rival = bench.rival(version, case, sizes)
            rival.enqueue()
            expected = case.expected()
            found, allowed = error(rival.result(), expected), case.allowed_error(expected)
            if not found <= allowed:
                raise PsamfError(f"{version.name} is wrong on {sizes}: error {found:.3g}, allowed {allowed:.3g}.")
            rows.append((version.name, sizes, found, allowed))
    return rows


def measure(bench: Bench, rounds: int, seed: int) -> list[dict]:
    """One row for each shape and each version or rival. Steps are all valid, so that masks cost everybody the same."""
    rng, rows = np.random.default_rng(seed), []
    bandwidth = bench.clock.bandwidth()
    empty = bench.time(bench.nothing(), rounds)
    for sizes in SHAPES:
        rows.append({**vars(sizes), "name": "empty kernel", "precision": "", **empty})
        for dtype in (np.dtype(np.float32), np.dtype(np.float16)):
            full = np.array([sizes.Ta, sizes.Tv])
            case = draw(rng, dtype, (sizes.B, sizes.S, sizes.Ta, sizes.Tv), lengths=full)
            rivals = [bench.rival(version, case, sizes) for version in VERSIONS if version.dtype == dtype]
            rivals += _torch(case, bench.stream)
            expected = case.expected()
            limit = 1e6 * total_bytes(sizes.B, sizes.S, sizes.Ta, sizes.Tv, dtype.itemsize) / bandwidth
            for rival in rivals:
                times = bench.time(rival, rounds)
                ratios = {"to_memory_limit": times["cold"] / limit, "to_empty": times["graph"] / empty["graph"]}
                row = {**vars(sizes), "name": rival.name, "precision": dtype.name, **times, **ratios}
                rows.append(row | ({"error": error(rival.result(), expected)} if rival.result else {}))
    return rows


def _torch(case: Case, stream: int) -> list[Rival]:
    try:
        return torch_rivals(case, stream)
    except MissingDependencyError as reason:
        print(reason, file=sys.stderr)
        return []


def markdown(record: dict) -> str:
    """The table of README.md."""
    lines = [
        f"{record['machine']['device']}, CUDA driver {record['machine']['cuda_driver']}, {record['machine']['date']}.",
        "",
        "| B, S, T | | precision | launched us | in a graph us | cold us | cold, to memory limit | graph, to empty |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["rows"]:
        times = " | ".join(f"{row[name]:.2f}" for name in COLUMNS)
        ratios = " | ".join(f"{row[name]:.1f}" if name in row else "" for name in ("to_memory_limit", "to_empty"))
        shape = f"{row['B']}, {row['S']}, {row['Ta']}"
        lines.append(f"| {shape} | {row['name']} | {row['precision']} | {times} | {ratios} |")
    return "\n".join(lines)


def write(record: dict, results: Path, readme: Path) -> None:
    """Keep a record in a checkout: kernels.json, and the table between README.md's marks."""
    (results / "kernels.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = readme.read_text(encoding="utf-8")
    table = f"<!-- measured -->\n{markdown(record)}\n<!-- /measured -->"
    readme.write_text(re.sub(r"<!-- measured -->.*<!-- /measured -->", lambda _: table, text, flags=re.S), "utf-8")


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="runs behind each median")
    parser.add_argument("--seed", type=int, default=None, help="of the inputs; without it they are new each time")
    parser.add_argument("--check", action="store_true", help="validate only, time nothing")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is 1 or more, not {options.rounds}")
    seed = options.seed if options.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    try:
        with open_bench() as bench:
            for name, sizes, found, allowed in validate(bench, seed):
                print(f"{name:16} {sizes}: error {found:.2e}, allowed {allowed:.2e}", file=sys.stderr)
            if options.check:
                return 0
            machine = {"date": date.today().isoformat(), **bench.clock.device(), "seed": seed, "rounds": options.rounds}
            record = {"machine": machine, "rows": measure(bench, options.rounds, seed)}
    except PsamfError as failure:
        print(failure, file=sys.stderr)
        return failure.exit_code
    print(markdown(record))
    if RESULTS.is_dir():
        write(record, RESULTS, HERE / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
