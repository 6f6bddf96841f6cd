"""What it takes to copy an utterance to the GPU and its scores back, measured alone.

In a run the copies are part of one CUDA graph, where nothing outside can see them; so here the same number of bytes
goes through the same kind of pinned memory, by the same driver. Where host and device share memory, nothing is copied.
"""

from __future__ import annotations

import time

import numpy as np

from psamf_edge.backends.driver import Driver
from psamf_edge.plan import Features

RESULT_BYTES = 512  # score and log-scale of at most four subsets, each in its own aligned block of 256 bytes


def input_bytes(features: Features) -> int:
    """Bytes of one utterance's words, voice and face, and of the mask of each."""
    values = [value for value in (features.ids, features.audio, features.face) if value is not None]
    return sum(value.nbytes + 4 * len(value) for value in values)


def copy_ms(driver: Driver, sizes: list[int], rounds: int, warmup: int = 3) -> list[float]:
    """Milliseconds, by round, of copying inputs of these sizes in and their results out, one after the other.

    Args:
        driver: stays the caller's, who closes it: the memory goes with it.
        sizes: bytes of each utterance of a clip; at least one.
    """
    with driver.current():
        stream, size = driver.stream(), max(sizes)
        host_in, host_out = driver.host_buffer(size, mapped=False), driver.host_buffer(RESULT_BYTES, mapped=False)
        device_in, device_out = driver.allocate(size), driver.allocate(RESULT_BYTES)
        host_in.array[:] = np.uint8(0)
        times = []
        for turn in range(warmup + rounds):
            start = time.perf_counter()
            for each in sizes:
                driver.copy_in(device_in, host_in, each, stream)
                driver.copy_out(host_out, device_out, RESULT_BYTES, stream)
                driver.synchronise(stream)
            if turn >= warmup:
                times.append(1e3 * (time.perf_counter() - start))
        return times
