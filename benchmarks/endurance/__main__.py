"""Does it stay as it is? python -m benchmarks.endurance [--clips DIR] [--only SECTION,...]

    inferences   the model alone, 10,000 times: memory, handles, threads; the same scores at the end as at the start
    clips        whole clips, 300 times: the same of this process and of its decoder
    company      threads, processes, Analyzers that come and go, a fork: the scores of one thread in one process
    soak         every clip of DIR in random order, hostile files between them, for --minutes
    kills        of the decoder, of the run by Ctrl-C and SIGTERM, and without notice, at random moments

Each section runs in a process of its own and goes into benchmarks/results/endurance.json. The exit code is 1 where one
has a complaint. Nothing is timed but how soon a run ends that was told to. Linux only: what is held is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.endurance import clips, company, inferences, kills
from benchmarks.endurance.apart import apart
from benchmarks.measure import RESULTS, machine
from psamf_edge.cli.inputs import expand

COMPANY = 3  # clips that everybody in company scores: with 32 threads in 4 processes, 200 analyses
SAMPLE = Path(__file__).parents[2] / "psamf_edge" / "data" / "sample.mp4"


def command_of(arguments: argparse.Namespace) -> str:
    """What makes these figures again, but for where things are."""
    sizes = {name: value for name, value in vars(arguments).items() if name not in ("clips", "only", "output")}
    clips_option = ["--clips CLIPS"] if arguments.clips else []
    return " ".join(["python -m benchmarks.endurance", *clips_option, *(f"--{k} {v:g}" for k, v in sizes.items())])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.endurance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, help="a folder of clips, beside the sample")
    parser.add_argument("--only", help="sections, separated by commas (all)")
    parser.add_argument("--inferences", type=int, default=10_000)
    parser.add_argument("--analyses", type=int, default=300, help="of whole clips, and in the soak at least")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=10, help="of the soak")
    parser.add_argument("--kills", type=int, default=25, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of orders and moments")
    parser.add_argument("--output", type=Path, default=RESULTS / "endurance.json")
    arguments = parser.parse_args()
    honest = [SAMPLE]
    if arguments.clips:
        honest += [clip for clip in expand([str(arguments.clips)]) if isinstance(clip, Path)]
    seed = arguments.seed
    sections = {
        "inferences": (inferences.run, arguments.inferences, 250, None, seed),
        "clips": (clips.run, honest, arguments.analyses, 10, 0.0, (), None, seed),
        "company": (company.run, honest[:COMPANY], arguments.threads, arguments.processes),
        "soak": (clips.soak, honest, 2 * len(honest), arguments.minutes, seed),
        "kills": (kills.run, SAMPLE, arguments.kills, seed),
    }
    chosen = arguments.only.split(",") if arguments.only else list(sections)
    if unknown := set(chosen) - set(sections):
        parser.error(f"no section {', '.join(sorted(unknown))}; choose from {', '.join(sections)}")
    record = json.loads(arguments.output.read_text()) if arguments.only and arguments.output.exists() else {}
    for name in chosen:
        print(name, file=sys.stderr)
        record[name] = {"machine": machine(), "command": command_of(arguments), **apart(*sections[name])}
        for complaint in record[name]["complaints"]:
            print(f"  {complaint}", file=sys.stderr)
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if any(record[name]["complaints"] for name in chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
