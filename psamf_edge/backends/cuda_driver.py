"""The few calls of the CUDA driver that a backend needs, through NVIDIA's cuda-bindings."""

from __future__ import annotations

from typing import Any

import numpy as np

from psamf_edge.errors import MissingDependencyError, PsamfError


class CudaDriver:
    """The primary context of the first GPU, one stream, and the device memory that was asked for.

    The primary context is the one that TensorRT and every other library share. All copies are put on the stream:
    nothing is known to be done before `synchronise` returns.

    Raises:
        MissingDependencyError: cuda-bindings is not installed, or there is no driver or no GPU.
    """

    def __init__(self) -> None:
        self._buffers: list[int] = []
        self.stream: Any = None
        self._context: Any = None
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise MissingDependencyError(
                "Running on a GPU needs cuda-bindings, which is not installed: `pip install cuda-bindings`, or use"
                " `--device cpu`."
            ) from error
        self._cuda = driver
        try:
            self._call("cuInit", 0)
            self._device = self._call("cuDeviceGet", 0)
        except Exception as error:  # no driver raises a private class of cuda-bindings; no GPU is an error code
            raise MissingDependencyError(
                f"No NVIDIA GPU can be used ({error}): check that `nvidia-smi` lists one, or use `--device cpu`."
            ) from error
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        try:
            self.make_current()
            self.stream = self._call("cuStreamCreate", 0)
        except PsamfError:
            self.close()
            raise

    def make_current(self) -> None:
        """Bind the context to the calling thread: CUDA keeps it for each thread apart."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes on the device, freed by `close`."""
        address = int(self._call("cuMemAlloc", size))
        self._buffers.append(address)
        return address

    def copy_in(self, address: int, values: np.ndarray) -> None:
        """Queue a copy of a C-contiguous array to the device. The driver has taken the values when this returns."""
        self._call("cuMemcpyHtoDAsync", address, values.ctypes.data, values.nbytes, self.stream)

    def copy_out(self, values: np.ndarray, address: int) -> None:
        """Queue a copy from the device into a C-contiguous array, which holds the values after `synchronise`."""
        self._call("cuMemcpyDtoHAsync", values.ctypes.data, address, values.nbytes, self.stream)

    def synchronise(self) -> None:
        """Wait for everything on the stream."""
        self._call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Free the buffers, the stream and the hold on the context. Closing twice is harmless."""
        if self._context is None:
            return
        self.make_current()
        for address in self._buffers:
            self._call("cuMemFree", address)
        self._buffers = []
        if self.stream is not None:
            self._call("cuStreamDestroy", self.stream)
        self._call("cuDevicePrimaryCtxRelease", self._device)
        self._context = self.stream = None

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a driver function; its result codes become errors, its one value the result."""
        code, *values = getattr(self._cuda, name)(*arguments)
        if int(code) != 0:
            raise PsamfError(f"The CUDA driver failed in {name}: {getattr(code, 'name', code)}.")
        return values[0] if values else None
