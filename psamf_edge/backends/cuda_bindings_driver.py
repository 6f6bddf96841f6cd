"""The CUDA driver through NVIDIA's cuda-bindings, version 12.6 or later."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from psamf_edge.backends.driver import DriverError, HostBuffer, Size3, cuda_version, model_name, no_gpu

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no hidden order with the default stream of another library
DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING: an event that only orders costs less
DEVICEMAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
LONGEST_NAME = 256  # bytes, as CUDA's own device properties have it
DEFAULT_STREAM = 0  # on which calls without a stream put their work


class CudaBindingsDriver:
    """`psamf_edge.backends.driver.Driver` over `cuda.bindings.driver`.

    Raises:
        ImportError: cuda-bindings is not installed.
        MissingDependencyError: there is no driver or no GPU.
    """

    name = "cuda-bindings"

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._cuda = driver
        self._made = ExitStack()  # gives back in reverse order, and goes on where one thing cannot be given back
        self._context: Any = None
        try:
            self._call("cuInit", 0)
            self._device = self._call("cuDeviceGet", 0)
            attribute = driver.CUdevice_attribute
            major = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
            minor = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
            integrated = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED)
            mappable = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY)
            multiprocessors = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            name = self._call("cuDeviceGetName", LONGEST_NAME, self._device)
            self.cuda = cuda_version(int(self._call("cuDriverGetVersion")))
        except Exception as error:  # no driver raises a private class of cuda-bindings; no GPU is an error code
            raise no_gpu(error) from error
        self.capability = (major, minor)
        # the bindings give all of what was asked for: a zero ends the name, and anything may come after it
        self.model = model_name(name.partition(b"\0")[0].decode(errors="replace"), multiprocessors)
        self.shares_memory = bool(integrated and mappable)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)

    @contextmanager
    def current(self) -> Iterator[None]:
        """See Driver, as for every method."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def allocate(self, size: int) -> int:
        address = int(self._call("cuMemAlloc", size))
        self._made.callback(self._call, "cuMemFree", address)
        return address

    def upload(self, values: np.ndarray) -> int:
        values = np.ascontiguousarray(values)
        address = self.allocate(max(1, values.nbytes))  # CUDA allocates no 0 bytes
        if values.nbytes:
            self._call("cuMemcpyHtoD", address, values.ctypes.data, values.nbytes)
            # from memory that is not pinned it returns once the bytes are staged, and our streams wait for no other
            self._call("cuStreamSynchronize", DEFAULT_STREAM)
        return address

    def host_buffer(self, size: int, mapped: bool) -> HostBuffer:
        host = int(self._call("cuMemHostAlloc", size, DEVICEMAP if mapped else 0))
        self._made.callback(self._call, "cuMemFreeHost", host)
        address = int(self._call("cuMemHostGetDevicePointer", host, 0)) if mapped else None
        return HostBuffer(np.frombuffer((ctypes.c_uint8 * size).from_address(host), np.uint8), address)

    def stream(self) -> int:
        stream = int(self._call("cuStreamCreate", NON_BLOCKING))
        self._made.callback(self._call, "cuStreamDestroy", stream)
        return stream

    def event(self) -> int:
        event = int(self._call("cuEventCreate", DISABLE_TIMING))
        self._made.callback(self._call, "cuEventDestroy", event)
        return event

    def copy_in(self, address: int, buffer: HostBuffer, size: int, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", address, buffer.array.ctypes.data, size, stream)

    def copy_out(self, buffer: HostBuffer, address: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", buffer.array.ctypes.data, address, size, stream)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronise(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def kernel(self, code: bytes, entry: str) -> int:
        module = self._call("cuModuleLoadData", code + b"\0")  # PTX is text and ends with a zero; a cubin knows its end
        self._made.callback(self._call, "cuModuleUnload", module)
        return int(self._call("cuModuleGetFunction", module, entry.encode()))

    def launch(
        self, kernel: int, grid: Size3, block: Size3, shared: int, stream: int, arguments: Sequence[np.generic]
    ) -> None:
        values = [np.array(argument) for argument in arguments]
        pointers = np.array([value.ctypes.data for value in values], np.uint64)  # the driver has read them on return
        self._call("cuLaunchKernel", kernel, *grid, *block, shared, stream, pointers.ctypes.data, 0)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        # thread-local: a cudaMalloc in another thread must not spoil the capture, and one in this thread must
        self._call("cuStreamBeginCapture", stream, self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            work()
        except BaseException:
            with suppress(DriverError):  # that the capture is spoilt is known already
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", stream))
            raise
        recorded = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", recorded, 0))
        finally:
            self._call("cuGraphDestroy", recorded)

    def launch_graph(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        if self._context is None:
            return
        with ExitStack() as last_to_first:
            last_to_first.callback(self._call, "cuDevicePrimaryCtxRelease", self._device)
            last_to_first.enter_context(self.current())
            last_to_first.callback(self._made.close)
        self._context = None

    def _attribute(self, attribute: Any) -> int:
        return int(self._call("cuDeviceGetAttribute", attribute, self._device))

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a driver function; its result codes become errors, its one value the result."""
        code, *values = getattr(self._cuda, name)(*arguments)
        if int(code) != 0:
            raise DriverError(f"The CUDA driver failed in {name}: {getattr(code, 'name', code)}.")
        return values[0] if values else None
