"""Whether the process that decodes clips can give up everything else."""

from __future__ import annotations

import subprocess
import sys

from psamf_edge.doctor.finding import BROKEN, NOTE, OK, Finding
from psamf_edge.media.child import TOP

SECONDS = 60  # to start Python on a slow card
UNSEALED = 3
SEAL = f"from psamf_edge.media.sandbox import seal; raise SystemExit(0 if seal() else {UNSEALED})"


def decoder_finding() -> Finding:
    """Tried in a process of its own, since it cannot be undone."""
    group, name = "machine", "decoder"
    try:
        done = subprocess.run([sys.executable, "-c", SEAL], cwd=TOP, capture_output=True, text=True, timeout=SECONDS)
        code, lines = done.returncode, done.stderr.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        code, lines = None, [str(error)]
    if code == 0:
        return Finding(group, name, OK, "its process is sealed: no network, no files, no other process")
    if code != UNSEALED:
        why = lines[-1] if lines else f"it ends with {code}"
        mend = f"see that {sys.executable or 'Python'} can be started from a process, and that memory is left"
        return Finding(group, name, BROKEN, f"its process does not start, and no clip can be read: {why}", mend)
    return Finding(
        group, name, NOTE, "its process has limits, but this system has no seccomp filter to seal it with",
        "for clips of strangers: a container without network, as in SECURITY.md",
    )  # fmt: skip
