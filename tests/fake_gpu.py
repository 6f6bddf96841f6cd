"""A stand-in for a GPU: a CUDA driver over host memory and a TensorRT whose engines are ONNX files run by ONNX Runtime.

Work on the stream is done when the stream is synchronised, not before, so that a result read too early is wrong.
Every call is recorded by name in `FakeGpu.calls`.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from psamf_edge.backends.sessions import open_session

VERSION = "1.7.1"
TYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
LARGEST = {"tokens": 128, "hops": 3000, "frames": 300, "subsets": 4, "audio_strides": 375, "face_strides": 300}


class Code(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NO_DEVICE = 100


class FakeGpu:
    """The state behind both modules. `fail` names a driver call that will return an error."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, ctypes.Array] = {}  # address to what is allocated there
        self.queue: list[Callable[[], None]] = []
        self.contexts_held = self.streams = 0
        self.fail: dict[str, Code] = {}
        self.host_code_allowed = False
        self.refuse = ""  # what TensorRT refuses: "engine", "context", "shape" or "execute"

    def install(self, patch: pytest.MonkeyPatch, flavour: str = "tensorrt_rtx") -> None:
        """Put both modules where an import finds them."""
        cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
        bindings.driver = FakeDriver(self)
        patch.setitem(sys.modules, "cuda", cuda)
        patch.setitem(sys.modules, "cuda.bindings", bindings)
        patch.setitem(sys.modules, flavour, fake_tensorrt(self, flavour))


class FakeDriver:
    """cuda.bindings.driver: each function returns its result code and then its values."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def __getattribute__(self, name: str):
        if not name.startswith("cu"):
            return object.__getattribute__(self, name)
        gpu, function = object.__getattribute__(self, "_gpu"), object.__getattribute__(self, name)

        def call(*arguments):
            gpu.calls.append(name)
            if name in gpu.fail:
                return (gpu.fail[name], None)
            value = function(*arguments)
            return (Code.CUDA_SUCCESS,) if value is None else (Code.CUDA_SUCCESS, value)

        return call

    def cuInit(self, flags): ...  # noqa: N802

    def cuDeviceGet(self, index):  # noqa: N802
        return 0

    def cuDevicePrimaryCtxRetain(self, device):  # noqa: N802
        self._gpu.contexts_held += 1
        return "context"

    def cuDevicePrimaryCtxRelease(self, device):  # noqa: N802
        self._gpu.contexts_held -= 1

    def cuCtxSetCurrent(self, context):  # noqa: N802
        assert context == "context"

    def cuStreamCreate(self, flags):  # noqa: N802
        self._gpu.streams += 1
        return 7

    def cuStreamDestroy(self, stream):  # noqa: N802
        self._gpu.streams -= 1

    def cuMemAlloc(self, size):  # noqa: N802
        block = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN, not zeros: nothing may count on a clean buffer
        self._gpu.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cuMemFree(self, address):  # noqa: N802
        del self._gpu.memory[address]

    def cuMemcpyHtoDAsync(self, device, host, size, stream):  # noqa: N802
        assert size <= len(self._gpu.memory[device])
        taken = ctypes.string_at(host, size)  # pageable memory is staged before the call returns
        self._gpu.queue.append(lambda: ctypes.memmove(device, taken, size))

    def cuMemcpyDtoHAsync(self, host, device, size, stream):  # noqa: N802
        assert size <= len(self._gpu.memory[device])
        self._gpu.queue.append(lambda: ctypes.memmove(host, device, size))

    def cuStreamSynchronize(self, stream):  # noqa: N802
        queue, self._gpu.queue = self._gpu.queue, []
        for work in queue:
            work()


class FakeContext:
    """IExecutionContext: shapes and addresses are kept, and the run is queued on the stream."""

    def __init__(self, gpu: FakeGpu, engine: FakeEngine) -> None:
        self._gpu, self._engine = gpu, engine
        self._shapes: dict[str, tuple] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name, shape):
        self._gpu.calls.append("set_input_shape")
        self._shapes[name] = tuple(shape)
        return self._gpu.refuse != "shape"

    def set_tensor_address(self, name, address):
        self._gpu.calls.append("set_tensor_address")
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name):
        if name in self._shapes:
            return self._shapes[name]
        return self._engine.run({n: np.zeros(s, self._engine.types[n]) for n, s in self._shapes.items()})[name].shape

    def execute_async_v3(self, stream):
        self._gpu.calls.append("execute_async_v3")
        assert stream == 7
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        assert set(addresses) == set(self._engine.types)

        def work() -> None:
            inputs = {}
            for name, shape in shapes.items():
                count, kind = int(np.prod(shape)), np.dtype(self._engine.types[name])
                raw = ctypes.string_at(addresses[name], count * kind.itemsize)
                inputs[name] = np.frombuffer(raw, kind).reshape(shape)
            for name, value in self._engine.run(inputs).items():
                assert value.nbytes <= len(self._gpu.memory[addresses[name]])
                ctypes.memmove(addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)

        self._gpu.queue.append(work)
        return self._gpu.refuse != "execute"


class FakeEngine:
    """ICudaEngine over an ONNX file."""

    def __init__(self, gpu: FakeGpu, content: bytes) -> None:
        self._gpu = gpu
        self._session = open_session(content, "fake engine")
        self._inputs = {value.name: value.shape for value in self._session.get_inputs()}
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        self.types = {value.name: TYPES[value.type] for value in values}

    def run(self, inputs):
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, inputs), strict=True))

    def create_execution_context(self):
        return None if self._gpu.refuse == "context" else FakeContext(self._gpu, self)

    def get_tensor_profile_shape(self, name, profile):
        assert profile == 0
        least, most = (
            [{**table}.get(a, a) for a in self._inputs[name]] for table in (dict.fromkeys(LARGEST, 1), LARGEST)
        )
        return [tuple(least), tuple(least), tuple(most)]

    def get_tensor_dtype(self, name):
        return self.types[name]


def fake_tensorrt(gpu: FakeGpu, name: str) -> ModuleType:
    """The part of TensorRT's Python API that the runtime uses."""

    class Logger:
        INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

    class Runtime:
        def __init__(self, logger) -> None:
            self._logger = logger
            self.engine_host_code_allowed = False

        def __setattr__(self, key, value) -> None:
            gpu.host_code_allowed |= key == "engine_host_code_allowed" and bool(value)
            object.__setattr__(self, key, value)

        def deserialize_cuda_engine(self, content):
            if gpu.refuse == "engine":
                self._logger.log(Logger.INFO, "chatter")
                self._logger.log(Logger.ERROR, "the magic tag does not match")
                return None
            return FakeEngine(gpu, content)

    module = ModuleType(name)
    module.__dict__.update(
        SimpleNamespace(__version__=VERSION, ILogger=Logger, Runtime=Runtime, nptype=lambda t: t).__dict__
    )
    return module
