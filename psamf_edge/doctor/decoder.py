"""Whether the process that decodes clips can give up everything else."""

from __future__ import annotations

import subprocess
import sys

from psamf_edge.doctor.finding import NOTE, OK, Finding
from psamf_edge.media.child import TOP

SECONDS = 60  # to start Python on a slow card
SEAL = "from psamf_edge.media.sandbox import seal; raise SystemExit(0 if seal() else 3)"


def decoder_finding() -> Finding:
    """Tried in a process of its own, since it cannot be undone."""
    group, name = "machine", "decoder"
    try:
        done = subprocess.run([sys.executable, "-c", SEAL], cwd=TOP, capture_output=True, timeout=SECONDS)
        sealed = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        sealed = False
    if sealed:
        return Finding(group, name, OK, "its process is sealed: no network, no files, no other process")
    return Finding(
        group, name, NOTE, "its process has limits, but this system has no seccomp filter to seal it with",
        "for clips of strangers: a container without network, as in SECURITY.md",
    )  # fmt: skip
