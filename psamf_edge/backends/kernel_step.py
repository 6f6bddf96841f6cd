"""One kernel of the plan: its weights on the device, its code in the context, its launch from the shapes.

The code is the bundle's PTX if the driver takes it (a driver of CUDA 12 refuses what nvcc 13 wrote), and else is
compiled on this machine by NVRTC.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from psamf_edge.backends.buckets import Shapes
from psamf_edge.backends.driver import Driver, DriverError
from psamf_edge.backends.engines import Bound
from psamf_edge.bundle import Bundle, PlanKernel
from psamf_edge.errors import IntegrityError


class KernelStep:
    """The cross-modal attention kernel over both modalities.

    Args:
        driver: in whose context the kernel runs, made current by the caller.
        bundle: where weights and code are.
        kernel: of the bundle's plan.

    Raises:
        IntegrityError: the weights are not what the kernel takes.
        MissingDependencyError: the code has to be compiled here, and NVRTC is not installed, or newer than the driver.
        DriverError: the driver takes neither code.
    """

    scratch = 0  # bytes

    def __init__(self, driver: Driver, bundle: Bundle, kernel: PlanKernel) -> None:
        from psamf_edge.kernels.cross_modal_attention import launcher

        self.plan = kernel
        self._driver, self._launch_shape = driver, launcher.launch_shape
        weights = _read_weights(bundle, kernel)
        query, audio, face, lengths = kernel.inputs
        (contexts,) = kernel.outputs
        self.dtypes = dict.fromkeys((query, audio, face, contexts), weights.dtype) | {lengths: np.dtype(np.int32)}
        self._kernel = _load(driver, bundle, kernel, launcher, weights.dtype)
        self._weights = driver.upload(weights)

    def largest(self, known: Shapes) -> Shapes:
        """The shape of the output where the inputs have the given ones."""
        return {self.plan.outputs[0]: (2, *known[self.plan.inputs[0]])}  # (2, B, S, d): heard and seen

    def bind(self, shapes: Shapes, addresses: Mapping[str, int], scratch: int) -> Bound:
        """The launch for these shapes and addresses. `scratch` is not used."""
        query, audio, face, lengths = self.plan.inputs
        (contexts,) = self.plan.outputs
        B, S, _ = shapes[query]
        Ta, Tv = shapes[audio][1], shapes[face][1]
        arguments = [
            *(np.uint64(addresses[name]) for name in (query, audio, face, lengths)),
            np.uint64(self._weights),
            *(np.int32(size) for size in (B, S, Ta, Tv)),
            np.uint64(addresses[contexts]),
        ]
        grid, block, shared = self._launch_shape(B, S, Ta, Tv)

        def enqueue(stream: int) -> None:
            self._driver.launch(self._kernel, grid, block, shared, stream, arguments)

        return Bound(self.largest(shapes), enqueue, lambda stream: True)


def _read_weights(bundle: Bundle, kernel: PlanKernel) -> np.ndarray:
    from psamf_edge.kernels.cross_modal_attention.packing import ROW

    try:
        weights = np.load(io.BytesIO(bundle.read(kernel.weights)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise IntegrityError(f"{kernel.weights} of {bundle.path} is no .npy file of numbers ({error}).") from error
    if weights.shape != (2, ROW) or weights.dtype not in (np.float32, np.float16):
        raise IntegrityError(
            f"{kernel.weights} of {bundle.path} holds {weights.dtype} of shape {weights.shape}; the kernel takes"
            f" float32 or float16 of shape {(2, ROW)}: run `psamf-edge compile` again."
        )
    return weights


def _load(driver: Driver, bundle: Bundle, kernel: PlanKernel, launcher: ModuleType, dtype: np.dtype) -> int:
    entry = launcher.entry(dtype)
    if kernel.code is not None:
        try:
            return driver.kernel(bundle.read(kernel.code), entry)
        except DriverError:
            pass  # of another CUDA version: the text of the kernel is here, so compile it for this one
    from psamf_edge.kernels.compiler import DeviceKernels

    return DeviceKernels(driver).get(launcher.SOURCE, entry)
