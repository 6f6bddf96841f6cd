"""One ONNX segment to one engine, with full TensorRT or TensorRT-RTX: on the device, and for `psamf-edge compile`.

Networks are strongly typed: every precision is in the ONNX file, none is chosen here. TensorRT-RTX builds without a GPU
and compiles its kernels where the engine first runs; full TensorRT builds on the machine that the engine is for.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from psamf_edge.backends.engines import load_tensorrt, logger_of, starting
from psamf_edge.backends.profile import Ranges
from psamf_edge.bundle import EngineOrigin
from psamf_edge.errors import PsamfError

LOW_MEMORY_VARIABLE = "PSAMF_EDGE_LOW_MEMORY"
# The largest tensor of a plan has 1.6 MB (the feed-forward of BERT-base in float32, 128 tokens x 3072), and a layer's
# scratch is a few of them. TensorRT's own default is all memory of the device, which on a Jetson is the host's as well.
WORKSPACE = 256 << 20
LOW_MEMORY_WORKSPACE = 32 << 20
PORTABLE = ("tensorrt_rtx",)  # flavours whose engines are for more than one GPU model
TURING = "7.5"  # TensorRT-RTX builds for 8.6 and later, and for this one alone where it is told to
DEVICES = {
    "tensorrt_rtx": "any GPU of this TensorRT-RTX version: kernels are compiled on first use",
    "tensorrt": "the GPU model of the machine that built it",
}


Unsupported = tuple[str, str, str]  # a node's name, its operator, and TensorRT's reason


class BuildError(PsamfError):
    """No engine comes out of a segment. The message carries TensorRT's log."""


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built.

    low_memory: for devices like the Orin Nano: a small workspace, one thread of the builder, no streams of its own.
    """

    low_memory: bool = False

    @classmethod
    def from_environment(cls) -> BuildOptions:
        """Low memory where PSAMF_EDGE_LOW_MEMORY is set to anything but "" and "0"."""
        return cls(os.environ.get(LOW_MEMORY_VARIABLE, "") not in ("", "0"))

    @property
    def name(self) -> str | None:
        """What a manifest says of them; None for the default."""
        return "low memory" if self.low_memory else None

    @property
    def workspace(self) -> int:
        """The most scratch memory that a layer may take, in bytes."""
        return LOW_MEMORY_WORKSPACE if self.low_memory else WORKSPACE


class EngineBuilder:
    """Builds engines of one flavour.

    Args:
        flavour: one of `engines.PACKAGES`.
        options: how.
        capability: of the GPU that is built for, as "8.7", where it is known.
        model: of that GPU, as `Driver.model`, where it is known.

    Raises:
        MissingDependencyError: the flavour is not installed, or its builder does not start (full TensorRT: no GPU).
    """

    def __init__(
        self,
        flavour: str,
        options: BuildOptions = BuildOptions(),
        capability: str | None = None,
        model: str | None = None,
    ) -> None:
        self._trt: ModuleType = load_tensorrt(flavour)
        self._options, self._capability, self._log = options, capability, logger_of(self._trt)
        is_portable = flavour in PORTABLE
        gpu = {} if is_portable else {"capability": capability, "model": model}
        self.origin = EngineOrigin(flavour, self._trt.__version__, DEVICES[flavour], options=options.name, **gpu)
        # what timing a layer's variants has told, for the next build; TensorRT-RTX times none
        self.timings: bytes | None = None if is_portable else b""
        with starting(self._trt, "builder"):
            self._builder = self._trt.Builder(self._log)
        if options.low_memory:
            self._builder.max_threads = 1  # each has memory of its own

    def plugin(self) -> str:
        """Which of `bundle.PLUGINS` this TensorRT takes. Raises UsageError: none."""
        from psamf_edge.kernels.plugin.registration import choose

        return choose(self._trt)

    def unsupported(self, model: bytes, plugin: str | None = None) -> list[Unsupported]:
        """What TensorRT's parser does not take of a serialised ONNX segment; nothing if it takes all of it."""
        with self._plugin(plugin):
            network = self._network()  # the parser does not keep it alive
            parser = self._trt.OnnxParser(network, self._log)
            if parser.supports_model_v2(model):
                return []
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
        return [(error.node_name(), error.node_operator(), error.desc()) for error in errors]

    def build(self, model: bytes, name: str, ranges: Ranges, plugin: str | None = None) -> bytes:
        """An engine with one optimisation profile over every dynamic axis.

        Args:
            model: a serialised ONNX segment.
            name: of the segment, for errors.
            ranges: of each axis name in the segment's inputs.
            plugin: one of `bundle.PLUGINS`, for a segment with our kernel in it.

        Raises:
            BuildError: the segment does not parse, or no engine comes out; the message carries TensorRT's log.
            UsageError: this TensorRT has no plugins of that kind.
        """
        with self._plugin(plugin):
            self._log.clear()
            network = self._network()
            parser = self._trt.OnnxParser(network, self._log)
            if not parser.parse(model):
                errors = "\n".join(str(parser.get_error(index)) for index in range(parser.num_errors))
                raise BuildError(f"The segment {name} does not parse:\n{errors}\n{self._log.text()}")
            config = self._config()
            config.add_optimization_profile(self._profile(network, name, ranges))
            self._use_timings(config)
            engine = self._builder.build_serialized_network(network, config)
            if engine is None:
                raise BuildError(f"No engine could be built of the segment {name}:\n{self._log.text()}")
            if self.timings is not None:
                self.timings = bytes(config.get_timing_cache().serialize())
            return bytes(engine)

    def _use_timings(self, config: Any) -> None:
        if self.timings is None:
            return
        for content in (self.timings, b""):  # what another version or device has timed is refused, and an empty one not
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, False):
                return

    def _plugin(self, plugin: str | None) -> Any:
        if plugin is None:
            return nullcontext()
        from psamf_edge.kernels.plugin.registration import registered

        return registered(self._trt, plugin)

    def _network(self) -> Any:
        # TensorRT 10 needs the flag; from 11 on there are no other networks, and the flag may go
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return self._builder.create_network(0 if flag is None else 1 << int(flag))

    def _config(self) -> Any:
        trt = self._trt
        config = self._builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._options.workspace)
        if self._options.low_memory:
            config.max_aux_streams = 0  # streams inside an engine each have scratch memory
        if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # RTX: without it a CUDA graph cannot capture a run
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if self._capability == TURING and hasattr(trt, "ComputeCapability"):
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.SM75, 0)
        return config

    def _profile(self, network: Any, name: str, ranges: Ranges) -> Any:
        profile = self._builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            bounds: list[tuple[int, int, int]] = []
            for axis, size in enumerate(tensor.shape):
                if size >= 0:
                    bounds.append((size, size, size))
                    continue
                axis_name = tensor.get_dimension_name(axis)
                if axis_name not in ranges:
                    raise BuildError(
                        f"The input {tensor.name} of the segment {name} has an axis {axis_name!r}, whose sizes nothing"
                        f" says; known are {', '.join(ranges)}. Run `psamf-edge compile` again."
                    )
                bounds.append(ranges[axis_name])
            least, usual, greatest = zip(*bounds, strict=True) if bounds else ((), (), ())
            profile.set_shape(tensor.name, least, usual, greatest)
        return profile
