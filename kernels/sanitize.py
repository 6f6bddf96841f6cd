"""The kernels under NVIDIA's compute-sanitizer, each tool in turn: python -m psamf_edge.kernels.sanitize

Runs the lab's validation of every version: memory (out of bounds, misaligned), shared-memory races, uninitialised
reads, wrong barriers. Needs a GPU and the CUDA toolkit's compute-sanitizer; exit code 3 where one is missing, 1 after a
finding.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
LAB = "psamf_edge.kernels.cross_modal_attention.lab"
MISSING = 3  # of the lab too


def main() -> int:
    """The command. Returns the exit code."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer is not on PATH: it comes with the CUDA toolkit.", file=sys.stderr)
        return MISSING
    lab = [sys.executable, "-m", LAB, "--check"]
    if code := subprocess.run(lab).returncode:  # no GPU, or a wrong result: nothing for the sanitizer to add
        return code
    found = []
    for tool in TOOLS:
        print(f"== {tool}", file=sys.stderr)
        if subprocess.run([sanitizer, "--tool", tool, "--error-exitcode", "1", *lab]).returncode:
            found.append(tool)
    print(f"Findings of: {', '.join(found)}." if found else "Clean.", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
