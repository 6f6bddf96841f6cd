"""Two fronts of the stand-in GPU: `cuda.bindings.driver` and `pycuda.driver`, with the calls that the backends make."""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_gpu import Code, CudaError, FakeGpu

KERNEL_ARGUMENTS = "PPPPPiiiiP"  # pointers and int32 of psamf_cross_modal_attention_*


def install_cuda_bindings(gpu: FakeGpu, patch: pytest.MonkeyPatch) -> None:
    """Put the front where `from cuda.bindings import driver` finds it."""
    cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    bindings.driver = CudaBindings(gpu)
    patch.setitem(sys.modules, "cuda", cuda)
    patch.setitem(sys.modules, "cuda.bindings", bindings)


class CudaBindings:
    """cuda.bindings.driver: each function returns its result code and then its values."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
        CU_DEVICE_ATTRIBUTE_INTEGRATED="integrated",
        CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY=1,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT="multiprocessors",
    )
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread local")

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def __getattr__(self, name: str):
        if not name.startswith("cu"):
            raise AttributeError(name)
        function = getattr(self, f"_{name}")

        def call(*arguments):
            try:
                self.gpu.enter(name, *arguments)
                value = function(*arguments)
            except CudaError as error:
                return (error.code, None)
            return (Code.CUDA_SUCCESS,) if value is None else (Code.CUDA_SUCCESS, value)

        return call

    def _cuInit(self, flags): ...  # noqa: N802

    def _cuDeviceGet(self, index):  # noqa: N802
        return 0

    def _cuDeviceGetAttribute(self, attribute, device):  # noqa: N802
        major, minor = self.gpu.capability
        known = {"integrated": int(self.gpu.integrated), "major": major, "minor": minor}
        return (known | {"multiprocessors": self.gpu.multiprocessors}).get(attribute, attribute)

    def _cuDeviceGetName(self, length, device):  # noqa: N802
        return f"{self.gpu.name}\0".encode().ljust(length)  # as the bindings give it

    def _cuDriverGetVersion(self):  # noqa: N802
        return self.gpu.cuda_version

    def _cuDevicePrimaryCtxRetain(self, device):  # noqa: N802
        self.gpu.contexts_held += 1
        return "context"

    def _cuDevicePrimaryCtxRelease(self, device):  # noqa: N802
        self.gpu.contexts_held -= 1

    def _cuCtxPushCurrent(self, context):  # noqa: N802
        self.gpu.context_stack.append(context)

    def _cuCtxPopCurrent(self):  # noqa: N802
        return self.gpu.context_stack.pop()

    def _cuStreamCreate(self, flags):  # noqa: N802
        from fake_gpu import Stream

        assert flags == 1  # non-blocking
        handle = self.gpu.handle()
        self.gpu.streams[handle] = Stream()
        return handle

    def _cuStreamDestroy(self, stream):  # noqa: N802
        del self.gpu.streams[stream]

    def _cuEventCreate(self, flags):  # noqa: N802
        from fake_gpu import Event

        assert flags == 2  # no clock
        handle = self.gpu.handle()
        self.gpu.events[handle] = Event()
        return handle

    def _cuEventDestroy(self, event):  # noqa: N802
        del self.gpu.events[event]

    def _cuEventRecord(self, event, stream):  # noqa: N802
        self.gpu.record(event, stream)

    def _cuStreamWaitEvent(self, stream, event, flags):  # noqa: N802
        self.gpu.wait(stream, event)

    def _cuMemAlloc(self, size):  # noqa: N802
        return self.gpu.allocate(size, self.gpu.memory)

    def _cuMemFree(self, address):  # noqa: N802
        del self.gpu.memory[address]

    def _cuMemHostAlloc(self, size, flags):  # noqa: N802
        assert flags == (2 if self.gpu.integrated else 0)  # mapped where it is of use
        return self.gpu.allocate(size, self.gpu.pinned)

    def _cuMemHostGetDevicePointer(self, host, flags):  # noqa: N802
        assert host in self.gpu.pinned
        return host

    def _cuMemFreeHost(self, host):  # noqa: N802
        del self.gpu.pinned[host]

    def _cuMemcpyHtoD(self, device, host, size):  # noqa: N802
        self.gpu.upload(device, host, size)

    def _cuMemcpyHtoDAsync(self, device, host, size, stream):  # noqa: N802
        assert any(base <= host and host + size <= base + len(block) for base, block in self.gpu.pinned.items())
        self.gpu.copy(self.gpu.check((device, size))[0], host, size, stream, "copy in")

    def _cuMemcpyDtoHAsync(self, host, device, size, stream):  # noqa: N802
        assert any(base <= host and host + size <= base + len(block) for base, block in self.gpu.pinned.items())
        self.gpu.copy(host, self.gpu.check((device, size))[0], size, stream, "copy out")

    def _cuStreamSynchronize(self, stream):  # noqa: N802
        self.gpu.synchronise(stream)

    def _cuCtxSynchronize(self):  # noqa: N802
        for stream in (0, *self.gpu.streams):
            self.gpu.synchronise(stream)

    def _cuModuleLoadData(self, image):  # noqa: N802
        assert image.endswith(b"\0")
        if b"too new" in image:
            raise CudaError(Code.CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
        handle = self.gpu.handle()
        self.gpu.modules[handle] = image
        return handle

    def _cuModuleUnload(self, module):  # noqa: N802
        del self.gpu.modules[module]

    def _cuModuleGetFunction(self, module, name):  # noqa: N802
        if name not in self.gpu.modules[module]:
            raise CudaError(Code.CUDA_ERROR_NOT_FOUND)
        handle = self.gpu.handle()
        self.gpu.functions[handle] = name.decode()
        return handle

    def _cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):  # noqa: N802
        pointers = (ctypes.c_void_p * len(KERNEL_ARGUMENTS)).from_address(parameters)
        kinds = {"P": ctypes.c_uint64, "i": ctypes.c_int32}
        values = [kinds[k].from_address(p).value for k, p in zip(KERNEL_ARGUMENTS, pointers, strict=True)]
        self.gpu.launch_kernel(function, tuple(values), stream)

    def _cuStreamBeginCapture(self, stream, mode):  # noqa: N802
        assert mode == "thread local"
        self.gpu.begin_capture(stream)

    def _cuStreamEndCapture(self, stream):  # noqa: N802
        handle = self.gpu.handle()
        self.gpu.graphs[handle] = self.gpu.end_capture(stream)
        return handle

    def _cuGraphInstantiate(self, graph, flags):  # noqa: N802
        handle = self.gpu.handle()
        self.gpu.graphs[handle] = self.gpu.graphs[graph]
        return handle

    def _cuGraphDestroy(self, graph):  # noqa: N802
        del self.gpu.graphs[graph]

    _cuGraphExecDestroy = _cuGraphDestroy  # noqa: N815

    def _cuGraphLaunch(self, graph, stream):  # noqa: N802
        self.gpu.launch_graph(graph, stream)


def install_pycuda(gpu: FakeGpu, patch: pytest.MonkeyPatch) -> None:
    """Put the front where `import pycuda.driver` finds it, and leave no cuda-bindings to be found first."""
    package, driver = ModuleType("pycuda"), _pycuda(CudaBindings(gpu))
    package.driver = driver
    patch.setitem(sys.modules, "pycuda", package)
    patch.setitem(sys.modules, "pycuda.driver", driver)
    patch.setitem(sys.modules, "cuda.bindings", None)


def _pycuda(cuda: CudaBindings) -> ModuleType:
    """pycuda.driver over the same functions: objects that give themselves back, and exceptions in place of codes."""

    class Error(Exception):
        pass

    def call(name, *arguments):
        code, *values = getattr(cuda, name)(*arguments)
        if code:
            raise Error(f"{name} failed: {code.name}")
        return values[0] if values else None

    class Owned:
        def __init__(self, handle, release) -> None:
            self.handle, self._release = handle, release

        def __int__(self) -> int:
            return self.handle

        def __del__(self) -> None:
            if self._release:
                call(self._release, self.handle)
                self._release = None

    class Freed(Owned):
        free = Owned.__del__

    class Stream(Owned):
        def __init__(self, flags=0) -> None:
            super().__init__(call("cuStreamCreate", flags), "cuStreamDestroy")

        def synchronize(self):
            call("cuStreamSynchronize", self.handle)

        def wait_for_event(self, event):
            call("cuStreamWaitEvent", self.handle, event._handle, 0)

    class Event:
        def __init__(self, flags=0) -> None:
            self._handle = call("cuEventCreate", flags)

        def record(self, stream=None):
            call("cuEventRecord", self._handle, stream.handle)
            return self

        def __del__(self) -> None:
            call("cuEventDestroy", self._handle)

    class Context:
        _stack: list = []  # noqa: RUF012

        def push(self):
            call("cuCtxPushCurrent", "context")
            self._stack.append(self)

        @staticmethod
        def pop():
            call("cuCtxPopCurrent")
            Context._stack.pop()

        @staticmethod
        def synchronize():
            call("cuCtxSynchronize")

        def detach(self):
            assert Context._stack
            assert Context._stack.pop() is self, "pycuda gives up a context in another thread only while it is current"
            call("cuCtxPopCurrent")
            call("cuDevicePrimaryCtxRelease", 0)

    class Device:
        def __init__(self, index) -> None:
            call("cuDeviceGet", index)

        def get_attribute(self, attribute):
            return call("cuDeviceGetAttribute", attribute, 0)

        def compute_capability(self):
            return cuda.gpu.capability

        def name(self):
            return cuda.gpu.name

        def retain_primary_context(self):
            call("cuDevicePrimaryCtxRetain", 0)
            return Context()

    class Function:
        def __init__(self, module, name) -> None:
            self._module, self._handle = module, call("cuModuleGetFunction", int(module), name.encode())

        def __call__(self, *arguments, grid, block, shared, stream):
            assert "".join({"L": "P", "i": "i"}[a.dtype.char] for a in arguments) == KERNEL_ARGUMENTS
            values = [np.array(argument) for argument in arguments]
            pointers = np.array([value.ctypes.data for value in values], np.uint64)
            call("cuLaunchKernel", self._handle, *grid, *block, shared, stream.handle, pointers.ctypes.data, 0)

    class Module(Owned):
        def get_function(self, name):
            return Function(self, name)

    class Allocation(Freed):
        def get_device_pointer(self):
            return call("cuMemHostGetDevicePointer", self.handle, 0)

    class Pinned(np.ndarray):
        base = None  # pycuda's arrays have their allocation as base

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        host = call("cuMemHostAlloc", shape, mem_flags)
        array = np.frombuffer((ctypes.c_uint8 * shape).from_address(host), dtype).view(Pinned)
        array.base = Allocation(host, "cuMemFreeHost")
        return array

    def htod_async(address, source, stream):
        call("cuMemcpyHtoDAsync", address, source.ctypes.data, source.nbytes, stream.handle)

    def dtoh_async(target, address, stream):
        call("cuMemcpyDtoHAsync", target.ctypes.data, address, target.nbytes, stream.handle)

    module = ModuleType("pycuda.driver")
    module.__dict__.update(
        Error=Error, Stream=Stream, Event=Event, Context=Context, Device=Device, init=lambda: call("cuInit", 0),
        get_driver_version=lambda: call("cuDriverGetVersion"),
        device_attribute=SimpleNamespace(
            INTEGRATED="integrated", CAN_MAP_HOST_MEMORY=1, MULTIPROCESSOR_COUNT="multiprocessors"
        ),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2), pagelocked_empty=pagelocked_empty,
        mem_alloc=lambda size: Freed(call("cuMemAlloc", size), "cuMemFree"),
        memcpy_htod=lambda to, values: call("cuMemcpyHtoD", to, values.ctypes.data, values.nbytes),
        memcpy_htod_async=htod_async, memcpy_dtoh_async=dtoh_async,
        module_from_buffer=lambda code: Module(call("cuModuleLoadData", code), "cuModuleUnload"),
    )  # fmt: skip
    return module
