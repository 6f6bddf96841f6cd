"""The part of TensorRT's Python API that builds engines, and the plugins that it can have, in the stand-in.

An engine is a line of JSON that says what it was built for, and the ONNX file. A node of our kernel without a function
body parses if its plugin is registered, as in TensorRT; when it runs, its body of operators stands for it.
"""

from __future__ import annotations

import enum
import json
import sys
import weakref
from types import ModuleType, SimpleNamespace

import pytest

MAGIC = b"stand-in engine "
NODE = ("psamf", "CrossModalAttention")


class BuilderState:
    """What was built and with what. `refuse` names what will fail: "builder", "parse" or "build"."""

    def __init__(self) -> None:
        self.refuse = ""
        self.built: list[str] = []  # the first input of each network
        self.profiles: list[dict[str, tuple]] = []
        self.workspaces: list[int] = []
        self.aux_streams: list[int] = []
        self.threads: list[int] = []
        self.timings: list[bytes] = []  # that builds began with
        self.creators: list[tuple[object, str]] = []  # of plugins in Python, each with its namespace
        self.alive: weakref.WeakSet = weakref.WeakSet()  # builders, which hold memory of the device
        self.quick: set[str] = set()  # identities of plugins that were declared ahead of time


def install_plugins(module: ModuleType, state: BuilderState, patch: pytest.MonkeyPatch) -> None:
    """`tensorrt.plugin`, as it is from 10.9 on."""
    quick = ModuleType(f"{module.__name__}.plugin")

    def register(identity):
        assert identity not in state.quick, "registered twice, which TensorRT takes for an error"
        return lambda function: state.quick.add(identity)

    quick.__dict__.update(
        register=register, aot_impl=lambda identity: lambda function: function, TensorDesc=object,
        KernelLaunchParams=object, SymExprs=object,
    )  # fmt: skip
    module.plugin = quick
    patch.setitem(sys.modules, quick.__name__, quick)


def add_builder(module: ModuleType, state: BuilderState, is_rtx: bool) -> None:
    """Give a stand-in module what building needs."""

    class Flag(enum.IntEnum):
        STRONGLY_TYPED = 1

    class Registry:
        def register_creator(self, creator, namespace: str = "") -> None:
            state.creators.append((creator, namespace))

        def deregister_creator(self, creator) -> None:
            state.creators = [held for held in state.creators if held[0] is not creator]

    class Builder:
        max_threads = 4

        def __init__(self, logger) -> None:
            if state.refuse == "builder":
                logger.log(module.ILogger.ERROR, "no CUDA-capable device is detected")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger
            state.alive.add(self)

        def create_network(self, flags):
            assert flags == 1 << Flag.STRONGLY_TYPED
            return Network()

        def create_optimization_profile(self):
            return Profile()

        def create_builder_config(self):
            return Config(state, is_rtx)

        def build_serialized_network(self, network, config):
            if state.refuse == "build":
                self._logger.log(module.ILogger.ERROR, "could not find any implementation for node MatMul_7")
                return None
            state.built.append(network.inputs[0].name)
            state.profiles.append(config.profile)
            state.workspaces.append(config.workspace)
            state.aux_streams.append(config.max_aux_streams)
            state.threads.append(self.max_threads)
            if not is_rtx:
                state.timings.append(config.timings.content)
                config.timings.content += network.inputs[0].name.encode() + b" took 3 us\n"
            head = {"flavour": module.__name__, "version": module.__version__, "plugin": network.plugin}
            head |= {"only": [config.only[index] for index in range(config.num_compute_capabilities)]}
            return MAGIC + json.dumps(head).encode() + b"\n" + network.content

    class OnnxParser:
        def __init__(self, network, logger) -> None:
            self._network, self._errors = network, []

        num_errors = property(lambda self: len(self._errors))

        def get_error(self, index):
            return self._errors[index]

        def supports_model_v2(self, content) -> bool:
            return self.parse(content)

        def parse(self, content) -> bool:
            import onnx

            try:
                model = onnx.load_from_string(content)
            except Exception as error:  # protobuf's own class
                self._errors.append(ParserError("", "", f"not a model: {error}"))
                return False
            bodies = {(body.domain, body.name) for body in model.functions}
            for node in model.graph.node:
                if (node.domain, node.op_type) == NODE and NODE not in bodies:
                    self._network.plugin = _plugin_of(node, state)
                    if self._network.plugin is None:
                        self._errors.append(ParserError(node.name, node.op_type, "Plugin not found"))
            if state.refuse == "parse":
                self._errors.append(ParserError("node 7", "MatMul", "UNSUPPORTED_NODE"))
            self._network.content = content
            self._network.inputs = [Tensor(value) for value in model.graph.input]
            return not self._errors

    module.__dict__.update(
        Builder=Builder, OnnxParser=OnnxParser, NetworkDefinitionCreationFlag=Flag,
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"), get_plugin_registry=Registry,
        BuilderFlag=SimpleNamespace(**({"REQUIRE_USER_ALLOCATION": "user"} if is_rtx else {})),
    )  # fmt: skip
    if is_rtx:
        module.ComputeCapability = SimpleNamespace(SM75=[7, 5], SM86=[8, 6])
    else:
        for name in ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime"):
            setattr(module, name, type(name, (), {}))
        module.IPluginCreatorV3One = type("IPluginCreatorV3One", (), {})
        module.PluginFieldCollection = list


def _plugin_of(node, state: BuilderState) -> str | None:
    import onnx

    named = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert named["plugin_version"] == b"1"
    namespace = named["plugin_namespace"].decode()
    if f"{namespace}::{node.op_type}" in state.quick:
        return "ahead_of_time"
    found = [creator for creator, at in state.creators if (creator.name, at) == (node.op_type, namespace)]
    return "python" if found else None


def split_engine(content: bytes) -> tuple[dict, bytes]:
    """What an engine was built for, and its ONNX file, which has a body for our kernel's node again."""
    if not content.startswith(MAGIC):
        return {}, content
    head, model = content.removeprefix(MAGIC).split(b"\n", 1)
    head = json.loads(head)
    if head["plugin"]:
        import onnx

        from psamf_edge.compile.export.cross_modal_op import attach_body

        graph = onnx.load_from_string(model)
        for node in graph.graph.node:
            if (node.domain, node.op_type) == NODE:
                del node.attribute[:]
        attach_body(graph, next(entry.version for entry in graph.opset_import if not entry.domain))
        model = graph.SerializeToString()
    return head, model


class ParserError:
    """ParserError."""

    def __init__(self, name: str, operator: str, reason: str) -> None:
        self._parts = (name, operator, reason)

    def node_name(self) -> str:
        return self._parts[0]

    def node_operator(self) -> str:
        return self._parts[1]

    def desc(self) -> str:
        return self._parts[2]

    def __str__(self) -> str:
        return "In node {} ({}): {}".format(*self._parts)


class Network:
    """INetworkDefinition."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.content = b""
        self.plugin: str | None = None

    num_inputs = property(lambda self: len(self.inputs))

    def get_input(self, index):
        return self.inputs[index]


class Tensor:
    """ITensor: sizes that vary are -1, and have the name that the ONNX file gives them."""

    def __init__(self, value) -> None:
        dims = value.type.tensor_type.shape.dim
        self.name = value.name
        self.shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in dims)
        self._names = [dim.dim_param or None for dim in dims]

    def get_dimension_name(self, index):
        return self._names[index]


class Profile(dict):
    """IOptimizationProfile."""

    def set_shape(self, name, least, usual, greatest) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, usual, greatest, strict=True))
        self[name] = (tuple(least), tuple(usual), tuple(greatest))


class Timings:
    """ITimingCache: what other versions have timed does not parse."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self):
        return memoryview(self.content)


class Config:
    """IBuilderConfig."""

    max_aux_streams = -1

    def __init__(self, state: BuilderState, is_rtx: bool) -> None:
        self._is_rtx = is_rtx
        self.profile: dict = {}
        self.workspace = 0
        self.timings: Timings | None = None
        self.num_compute_capabilities, self.only = 0, {}  # of TensorRT-RTX

    def set_compute_capability(self, capability, index) -> bool:
        assert self._is_rtx
        assert index < self.num_compute_capabilities
        self.only[index] = capability
        return True

    def add_optimization_profile(self, profile) -> None:
        self.profile = dict(profile)

    def set_memory_pool_limit(self, pool, size) -> None:
        assert pool == "workspace"
        self.workspace = size

    def set_flag(self, flag) -> None:
        assert self._is_rtx

    def create_timing_cache(self, content):
        assert not self._is_rtx, "TensorRT-RTX times nothing, and warns of these calls"
        return None if content.startswith(b"junk") else Timings(bytes(content))

    def set_timing_cache(self, cache, ignore_mismatch) -> bool:
        assert ignore_mismatch is False
        self.timings = cache
        return True

    def get_timing_cache(self):
        return self.timings
