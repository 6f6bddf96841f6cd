"""CUDA events as a clock, and what a device can move: the little of the driver that only the lab needs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from psamf_edge.backends.driver import DriverError, cuda_version
from psamf_edge.errors import MissingDependencyError

LEAST_FLUSH = 64 << 20  # bytes; twice the L2 where that is more


class GpuClock:
    """Times work on a stream of the context that is current.

    Args:
        stream: as the driver gave it.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        DriverError: as any method, when a call of the driver fails.
    """

    def __init__(self, stream: int) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise MissingDependencyError("The lab's clock needs cuda-bindings: `pip install cuda-bindings`.") from error
        self._cuda, self._stream = driver, stream
        self._events = [self._call("cuEventCreate", 0) for _ in range(2)]
        self._device = self._call("cuCtxGetDevice")
        l2 = self._call(
            "cuDeviceGetAttribute", driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, self._device
        )
        self._flush_size = max(2 * l2, LEAST_FLUSH)
        self._buffers = [self._call("cuMemAlloc", self._flush_size) for _ in range(2)]

    def times(self, work: Callable[[], None], rounds: int, cold: bool = False) -> list[float]:
        """Microseconds of each of `rounds` runs of what `work` puts on the stream.

        Cold: all of L2 is overwritten before each run; the device is then still busy while the run is queued, so that
        the time has no share of the host's. Not cold: the device waits for the host, as it does for a caller.
        """
        start, end = self._events
        times = []
        for _ in range(rounds):
            if cold:
                self._call("cuMemsetD8Async", self._buffers[0], 0xA5, self._flush_size, self._stream)
            self._call("cuEventRecord", start, self._stream)
            work()
            self._call("cuEventRecord", end, self._stream)
            self._call("cuEventSynchronize", end)
            times.append(1e3 * self._call("cuEventElapsedTime", start, end))
        return times

    def bandwidth(self, rounds: int = 20) -> float:
        """Bytes a second that a copy inside the device's memory reads and writes: the ceiling that it has in truth."""

        def copy() -> None:
            self._call("cuMemcpyDtoDAsync", *self._buffers, self._flush_size, self._stream)

        return 2 * self._flush_size / (1e-6 * sorted(self.times(copy, rounds))[rounds // 2])

    def device(self) -> dict[str, str]:
        """What the times are of: the device and its driver."""
        name = self._call("cuDeviceGetName", 100, self._device)
        cuda = cuda_version(int(self._call("cuDriverGetVersion")))
        return {
            "device": name.partition(b"\0")[0].decode(),  # what the bindings give goes on after the zero
            "cuda_driver": "{}.{}".format(*cuda),
            "cuda_bindings": version("cuda-bindings"),
        }

    def close(self) -> None:
        """Give back events and memory."""
        for event in self._events:
            self._call("cuEventDestroy", event)
        for buffer in self._buffers:
            self._call("cuMemFree", buffer)
        self._events, self._buffers = [], []

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._cuda, name)(*arguments)
        if int(code):
            raise DriverError(f"The CUDA driver failed in {name}: {getattr(code, 'name', code)}.")
        return values[0] if values else None
