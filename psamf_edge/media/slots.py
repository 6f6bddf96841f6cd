"""Memory that the reader shares with its decoder child: a frame is copied in and out, and no pipe cuts it to pieces.

A file without a name (memfd, Linux) that the child inherits: nothing to clean up, however either of them ends. Where
there is none, the pipe carries the frames. No NumPy here: the child loads this too.
"""

from __future__ import annotations

import contextlib
import os

try:
    import fcntl
except ImportError:
    fcntl = None

SLOTS = 4  # frames that the child may be ahead of the reader; a single one leaves each waiting for the other
SLOT_BYTES = 1 << 21  # holds 640 x 640 pixels, which is as large as the default `max_side` allows


def create() -> int | None:
    """Descriptor of SLOTS * SLOT_BYTES bytes of memory, used from the first write on; None where there is no memfd."""
    if not (hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")):
        return None
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        descriptor = os.memfd_create("psamf-edge frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.truncate(descriptor, SLOTS * SLOT_BYTES)
            # Of memory that was cut off, the next read is a SIGBUS: no child may do that to us.
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
    return None
