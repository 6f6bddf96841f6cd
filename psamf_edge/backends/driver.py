"""What a backend needs of the CUDA driver: one small protocol, and the choice between its two implementations.

Both work in the primary context of the first GPU, which TensorRT and every other library share, and both may be used
from several threads: a thread enters `current()` around its calls, and leaves whatever context it had before in place.
Handles are plain integers, as TensorRT takes them. Everything that a driver has made is given back by `close`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from psamf_edge.errors import MissingDependencyError, PsamfError

Size3 = tuple[int, int, int]  # of a grid or a block: x, y, z


class DriverError(PsamfError):
    """A call of the CUDA driver failed. The message has the call and CUDA's name for the reason."""


@dataclass(frozen=True)
class HostBuffer:
    """Pinned host memory, which the device copies to and from without a detour.

    array: the bytes, uint8.
    address: where the device sees the same bytes, if the memory is mapped, else None.
    """

    array: np.ndarray
    address: int | None


class Driver(Protocol):
    """The primary context of the first GPU. Work put on a stream is done when `synchronise` has returned, not before.

    Every method but `current` and `close` is called inside `current()`; every one may raise DriverError.
    """

    name: str
    shares_memory: bool  # device and host have one memory (Jetson), so that mapped buffers need no copies
    capability: tuple[int, int]  # of the device: major, minor
    model: str  # of the device: its name and how many multiprocessors work, as "Orin with 16 multiprocessors"
    cuda: tuple[int, int]  # the newest CUDA that the driver knows: major, minor

    def current(self) -> AbstractContextManager[None]:
        """Make the context the calling thread's own for as long as the block lasts."""

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes on the device."""

    def upload(self, values: np.ndarray) -> int:
        """The address of new device memory with these values in it, which are there when this returns.

        There may be none: the address is of memory then, too.
        """

    def host_buffer(self, size: int, mapped: bool) -> HostBuffer:
        """`size` bytes of pinned host memory, mapped into the device's address space where that is asked for."""

    def stream(self) -> int:
        """A new stream, which waits for no other and for which no other waits."""

    def event(self) -> int:
        """A new event without a clock."""

    def copy_in(self, address: int, buffer: HostBuffer, size: int, stream: int) -> None:
        """Queue a copy of the buffer's first `size` bytes to the device."""

    def copy_out(self, buffer: HostBuffer, address: int, size: int, stream: int) -> None:
        """Queue a copy of `size` bytes from the device into the buffer."""

    def record(self, event: int, stream: int) -> None:
        """Let the event stand for everything that is on the stream now."""

    def wait(self, stream: int, event: int) -> None:
        """Let what is put on the stream from now on wait for what the event stands for."""

    def synchronise(self, stream: int) -> None:
        """Wait until everything on the stream is done."""

    def kernel(self, code: bytes, entry: str) -> int:
        """Load PTX or a cubin and find one kernel in it by its name."""

    def launch(
        self, kernel: int, grid: Size3, block: Size3, shared: int, stream: int, arguments: Sequence[np.generic]
    ) -> None:
        """Queue a kernel. Pointers are given as np.uint64, int32 scalars as np.int32; `shared` is in bytes."""

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Record what `work` puts on the stream, and on streams that wait for it, into a graph that can be launched.

        Nothing of it runs. Whatever `work` raises is passed on, with the capture ended.
        """

    def launch_graph(self, graph: int, stream: int) -> None:
        """Queue a whole captured graph."""

    def free_graph(self, graph: int) -> None:
        """Give one graph back. It must not be running."""

    def close(self) -> None:
        """Give back everything, and the hold on the context last. Closing twice is harmless."""


def open_driver() -> Driver:
    """cuda-bindings where it is installed, else pycuda.

    Raises:
        MissingDependencyError: neither is installed, or there is no driver or no GPU.
    """
    from psamf_edge.backends.cuda_bindings_driver import CudaBindingsDriver
    from psamf_edge.backends.pycuda_driver import PyCudaDriver

    for kind in (CudaBindingsDriver, PyCudaDriver):
        try:
            return kind()
        except ImportError as error:
            reason = error
    raise MissingDependencyError(
        "Running on a GPU needs cuda-bindings or pycuda, and neither is installed: `pip install cuda-bindings`, or use"
        " `--device cpu`."
    ) from reason


def model_name(name: str, multiprocessors: int) -> str:
    """`Driver.model`. The name alone does not tell the boards with an Orin apart."""
    return f"{name} with {multiprocessors} multiprocessors"


def cuda_version(number: int) -> tuple[int, int]:
    """`Driver.cuda` of how the driver writes it, as 12060."""
    return number // 1000, number % 1000 // 10


def no_gpu(reason: Exception) -> MissingDependencyError:
    """The error of a machine whose driver does not start."""
    return MissingDependencyError(
        f"No NVIDIA GPU can be used ({reason}): check that `nvidia-smi` lists one, or use `--device cpu`."
    )
