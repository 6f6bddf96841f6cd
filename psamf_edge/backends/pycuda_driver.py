"""The CUDA driver through pycuda, for machines that have it already, as many Jetsons do. It knows no CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from psamf_edge.backends.driver import DriverError, HostBuffer, Size3, cuda_version, model_name, no_gpu

DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
NO_GRAPHS = "pycuda has no CUDA graphs: `pip install cuda-bindings`, and each utterance is one launch."


class PyCudaDriver:
    """`psamf_edge.backends.driver.Driver` over `pycuda.driver`.

    pycuda's objects give themselves back when the last reference goes: `_held` keeps them by the handle that stands for
    them, and `close` lets go of them in reverse order.

    Raises:
        ImportError: pycuda is not installed.
        MissingDependencyError: there is no driver or no GPU.
    """

    name = "pycuda"

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._held: dict[int, Any] = {}
        self._context: Any = None
        try:
            cuda.init()
            device = cuda.Device(0)
            attribute = cuda.device_attribute
            integrated = device.get_attribute(attribute.INTEGRATED)
            mappable = device.get_attribute(attribute.CAN_MAP_HOST_MEMORY)
            self.capability = tuple(device.compute_capability())
            self.model = model_name(device.name(), device.get_attribute(attribute.MULTIPROCESSOR_COUNT))
            self.cuda = cuda_version(cuda.get_driver_version())
        except Exception as error:
            raise no_gpu(error) from error
        self.shares_memory = bool(integrated and mappable)
        with self._errors():
            self._context = device.retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """See Driver, as for every method."""
        with self._errors():
            self._context.push()
        try:
            yield
        finally:
            with self._errors():
                self._cuda.Context.pop()

    def allocate(self, size: int) -> int:
        with self._errors():
            memory = self._cuda.mem_alloc(size)
        return self._hold(int(memory), memory)

    def upload(self, values: np.ndarray) -> int:
        address = self.allocate(max(1, values.nbytes))  # CUDA allocates no 0 bytes
        if values.nbytes:
            with self._errors():
                self._cuda.memcpy_htod(address, np.ascontiguousarray(values))
                # it returns once the bytes are staged; pycuda has no handle of the default stream, which has the copy
                self._cuda.Context.synchronize()
        return address

    def host_buffer(self, size: int, mapped: bool) -> HostBuffer:
        flags = self._cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        with self._errors():
            array = self._cuda.pagelocked_empty(size, np.uint8, mem_flags=flags)
            address = int(array.base.get_device_pointer()) if mapped else None
        self._hold(array.ctypes.data, array.base)  # views of the array may outlive this driver, the memory must not
        return HostBuffer(array, address)

    def stream(self) -> int:
        with self._errors():
            stream = self._cuda.Stream(NON_BLOCKING)
        return self._hold(stream.handle, stream)

    def event(self) -> int:
        with self._errors():
            event = self._cuda.Event(DISABLE_TIMING)
        return self._hold(id(event), event)  # pycuda does not tell the handle of an event

    def copy_in(self, address: int, buffer: HostBuffer, size: int, stream: int) -> None:
        with self._errors():
            self._cuda.memcpy_htod_async(address, buffer.array[:size], self._held[stream])

    def copy_out(self, buffer: HostBuffer, address: int, size: int, stream: int) -> None:
        with self._errors():
            self._cuda.memcpy_dtoh_async(buffer.array[:size], address, self._held[stream])

    def record(self, event: int, stream: int) -> None:
        with self._errors():
            self._held[event].record(self._held[stream])

    def wait(self, stream: int, event: int) -> None:
        with self._errors():
            self._held[stream].wait_for_event(self._held[event])

    def synchronise(self, stream: int) -> None:
        with self._errors():
            self._held[stream].synchronize()

    def kernel(self, code: bytes, entry: str) -> int:
        with self._errors():
            function = self._cuda.module_from_buffer(code + b"\0").get_function(entry)
        return self._hold(id(function), function)  # the function keeps its module

    def launch(
        self, kernel: int, grid: Size3, block: Size3, shared: int, stream: int, arguments: Sequence[np.generic]
    ) -> None:
        with self._errors():
            self._held[kernel](*arguments, grid=grid, block=block, shared=shared, stream=self._held[stream])

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        raise DriverError(NO_GRAPHS)

    def launch_graph(self, graph: int, stream: int) -> None:
        raise DriverError(NO_GRAPHS)

    def free_graph(self, graph: int) -> None:
        raise DriverError(NO_GRAPHS)

    def close(self) -> None:
        if self._context is None:
            return
        with self._errors(), ExitStack() as last_to_first:
            # while it is current: in a thread that did not make it, pycuda gives up no other. The thread keeps the
            # released context on its stack, and finds it valid when a library retains it again.
            last_to_first.callback(self._context.detach)
            self._context.push()
            while self._held:
                held = self._held.popitem()[1]
                if hasattr(held, "free"):
                    held.free()
                del held
        self._context = None

    def _hold(self, handle: int, thing: Any) -> int:
        self._held[handle] = thing
        return handle

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise DriverError(f"The CUDA driver failed: {error}.") from error
