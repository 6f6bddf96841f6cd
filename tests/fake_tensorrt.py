"""The part of TensorRT's Python API that the runtime uses, over the stand-in GPU: engines are ONNX files, run by ONNX
Runtime when their turn on the stream comes.
"""

from __future__ import annotations

import ctypes
import enum
import sys
import weakref
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from fake_gpu import FakeGpu, Work
from fake_tensorrt_builder import BuilderState, add_builder, install_plugins, split_engine

from psamf_edge.backends.sessions import open_session

VERSION = "1.7.1"
TYPES = {"int64": np.int64, "int32": np.int32, "float": np.float32, "float16": np.float16}
LARGEST = {"tokens": 128, "hops": 3000, "frames": 300, "subsets": 4, "audio_strides": 375, "face_strides": 300}
TURING = (7, 5)  # which TensorRT-RTX serves with engines that were built for it
SCRATCH = 768  # bytes of every context: each run writes all of it


class FakeTensorRT:
    """`refuse` names what TensorRT will not do: "runtime", "engine", "context", "shape", "execute", "capture" or
    "capturable"; "execute x" means the engine alone whose first input is x.
    """

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu
        self.refuse = ""
        self.refuse_next = 0  # so many of the next engines do not load
        self.builder = BuilderState()
        self.contexts: weakref.WeakSet[Context] = weakref.WeakSet()
        self.host_code_allowed = False
        self.runtime_caches: list[RuntimeCache] = []

    def install(
        self,
        patch: pytest.MonkeyPatch,
        flavour: str = "tensorrt_rtx",
        version: str = VERSION,
        ahead_of_time: bool = True,
    ) -> ModuleType:
        """Put it in the place of a flavour; ahead_of_time: full TensorRT has `tensorrt.plugin`."""
        module = self.module(flavour, version)
        patch.setitem(sys.modules, flavour, module)
        patch.setitem(sys.modules, f"{flavour}.plugin", None)
        if flavour == "tensorrt" and ahead_of_time:
            install_plugins(module, self.builder, patch)
        return module

    def module(self, flavour: str, version: str) -> ModuleType:
        state = self

        def is_served(head: dict) -> bool:
            if flavour != "tensorrt_rtx":
                return True
            only = head.get("only")
            return list(state.gpu.capability) in only if only else state.gpu.capability > TURING

        class Logger:
            INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        class Runtime:
            def __init__(self, logger) -> None:
                if state.refuse == "runtime":
                    logger.log(Logger.WARNING, "CUDA initialization failure with error: 35")
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                self._logger = logger
                self.engine_host_code_allowed = False

            def __setattr__(self, key, value) -> None:
                state.host_code_allowed |= key == "engine_host_code_allowed" and bool(value)
                object.__setattr__(self, key, value)

            def deserialize_cuda_engine(self, content):
                head, model = split_engine(content)
                state.refuse_next -= 1
                is_refused = state.refuse == "engine" or state.refuse_next >= 0
                if is_refused or not is_served(head) or head.get("version", version) != version:
                    self._logger.log(Logger.INFO, "chatter")
                    self._logger.log(Logger.ERROR, "the magic tag does not match")
                    return None
                if head.get("plugin") == "python" and not state.builder.creators:
                    self._logger.log(Logger.ERROR, "Cannot find plugin: CrossModalAttention, version: 1, psamf")
                    return None
                return Engine(state, model, flavour == "tensorrt_rtx")

        module = ModuleType(flavour)
        module.__dict__.update(
            __version__=version, ILogger=Logger, Runtime=Runtime, nptype=lambda kind: kind,
            ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=Strategy.USER_MANAGED),
        )  # fmt: skip
        add_builder(module, state.builder, flavour == "tensorrt_rtx")
        if flavour == "tensorrt_rtx":
            module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
        return module


class Strategy(enum.Enum):
    USER_MANAGED = 2


class RuntimeConfig:
    """TensorRT-RTX's IRuntimeConfig."""

    strategy, dynamic_shapes_kernel_specialization_strategy = None, "lazy"

    def __init__(self, state: FakeTensorRT) -> None:
        self._state = state
        self.cache: RuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self):
        self._state.runtime_caches.append(RuntimeCache())
        return self._state.runtime_caches[-1]

    def set_runtime_cache(self, cache) -> None:
        self.cache = cache


class RuntimeCache:
    """TensorRT-RTX's IRuntimeCache: a context compiles what is not in it."""

    def __init__(self) -> None:
        self.content = b""
        self.compiled = 0

    def deserialize(self, content) -> bool:
        self.content = bytes(content)
        return True

    def serialize(self):
        return memoryview(self.content)


class Engine:
    """ICudaEngine over an ONNX file."""

    device_memory_size_v2 = SCRATCH

    def __init__(self, state: FakeTensorRT, content: bytes, rtx: bool) -> None:
        self.state, self._rtx = state, rtx
        self._session = open_session(content, "stand-in engine")
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        self.inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self.types = {value.name: TYPES[value.type.removeprefix("tensor(").rstrip(")")] for value in values}

    def run(self, inputs):
        names = [value.name for value in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, inputs), strict=True))

    def create_runtime_config(self):
        assert self._rtx
        return RuntimeConfig(self.state)

    def create_execution_context(self, how):
        if self._rtx:
            assert how.dynamic_shapes_kernel_specialization_strategy == "eager"
            if not how.cache.content:
                how.cache.compiled += 1
                how.cache.content = f"kernels of {next(iter(self.inputs))}".encode()
            how = how.strategy
        assert how is Strategy.USER_MANAGED
        if self.state.refuse == "context":
            return None
        return CapturableContext(self) if self._rtx else Context(self)

    def get_tensor_profile_shape(self, name, profile):
        assert profile == 0
        least, most = (
            [{**table}.get(a, a) for a in self.inputs[name]] for table in (dict.fromkeys(LARGEST, 1), LARGEST)
        )
        return [tuple(least), tuple(least), tuple(most)]

    def get_tensor_dtype(self, name):
        return self.types[name]


class Context:
    """IExecutionContext. It prepares itself in its first run, which no capture allows, and no graph lets it change."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._state, self._gpu = engine, engine.state, engine.state.gpu
        self._shapes: dict[str, tuple] = {}
        self._addresses: dict[str, int] = {}
        self._scratch: int | None = None
        self._changes = 0
        self._is_prepared = False
        self._state.contexts.add(self)

    def set_device_memory(self, memory, size) -> None:
        assert memory % 16 == 0
        assert size >= SCRATCH
        self._scratch = memory
        self._changed("set_device_memory")

    def set_input_shape(self, name, shape):
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        self._shapes[name] = tuple(shape)
        self._changed("set_input_shape", name, tuple(shape))
        allowed = len(shape) == len(most) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        return allowed and self._state.refuse != "shape"

    def set_tensor_address(self, name, address):
        assert name in self._engine.types
        self._addresses[name] = address
        self._changed("set_tensor_address", name, address)
        return True

    def get_tensor_shape(self, name):
        if name in self._shapes:
            return self._shapes[name]
        assert set(self._shapes) == set(self._engine.inputs)
        inputs = {n: np.zeros(s, self._engine.types[n]) for n, s in self._shapes.items()}
        return self._engine.run(inputs)[name].shape

    def execute_async_v3(self, stream):
        self._gpu.calls.append(("execute_async_v3", next(iter(self._shapes)), stream))
        assert set(self._addresses) == set(self._engine.types)
        capturing = self._gpu.streams[stream].capture
        refused = ("execute", f"execute {next(iter(self._shapes))}", "capture" if capturing else "execute")
        if self._state.refuse in refused:
            return False
        if capturing and not self._is_prepared:
            self._gpu.spoil()
            return False
        self._is_prepared = True
        shapes, addresses, changes = dict(self._shapes), dict(self._addresses), self._changes
        outputs = {name: self.get_tensor_shape(name) for name in addresses if name not in shapes}
        me = weakref.ref(self)

        def region(name, shape):
            return self._gpu.check((addresses[name], int(np.prod(shape)) * np.dtype(self._engine.types[name]).itemsize))

        reads = [region(name, shape) for name, shape in shapes.items()]
        writes = [region(name, shape) for name, shape in outputs.items()]
        scratch = self._gpu.check((self._scratch, SCRATCH))
        engine = self._engine

        def work() -> None:
            assert me() is not None, "the context of a graph, or of work on a stream, was destroyed"
            assert me()._changes == changes, "the context of a graph was changed after the capture"
            ctypes.memset(scratch[0], 0xFF, SCRATCH)
            inputs = {}
            for (name, shape), (address, size) in zip(shapes.items(), reads, strict=True):
                raw = ctypes.string_at(address, size)
                inputs[name] = np.frombuffer(raw, engine.types[name]).reshape(shape)
            made = engine.run(inputs)
            for name, (address, size) in zip(outputs, writes, strict=True):
                assert made[name].nbytes == size
                ctypes.memmove(address, np.ascontiguousarray(made[name]).ctypes.data, size)

        self._gpu.put(stream, Work(f"engine with {next(iter(shapes))}", reads, [*writes, scratch], work))
        return True

    def _changed(self, *call) -> None:
        self._gpu.calls.append(call)
        self._changes += 1


class CapturableContext(Context):
    """TensorRT-RTX's, which says whether it may be captured."""

    def is_stream_capturable(self, stream):
        assert stream in self._gpu.streams
        return self._state.refuse != "capturable"
