"""One ONNX segment to one engine, with full TensorRT or TensorRT-RTX.

Networks are strongly typed: every precision is in the ONNX file, none is chosen here. TensorRT-RTX builds without a GPU
and compiles its kernels where the engine first runs; full TensorRT builds on the machine that the engine is for.
"""

from __future__ import annotations

import onnx

from psamf_edge.backends.tensorrt import load_tensorrt, logger_of
from psamf_edge.bundle import EngineOrigin
from psamf_edge.compile.export import ExportError
from psamf_edge.compile.export.segments import Ranges
from psamf_edge.errors import MissingDependencyError

FLAVOURS = {"rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
DEVICES = {
    "tensorrt_rtx": "any GPU of this TensorRT-RTX version: kernels are compiled on first use",
    "tensorrt": "the GPU model of the machine that built it",
}


class EngineBuilder:
    """Builds engines for one target.

    Args:
        target: "rtx" or "tensorrt".

    Raises:
        MissingDependencyError: the flavour is not installed, or its builder does not start (full TensorRT: no GPU).
    """

    def __init__(self, target: str) -> None:
        flavour = FLAVOURS[target]
        self._trt = load_tensorrt(flavour)
        self._log = logger_of(self._trt)
        self._log.clear()
        self.origin = EngineOrigin(flavour, self._trt.__version__, DEVICES[flavour])
        try:
            self._builder = self._trt.Builder(self._log)
        except Exception as error:  # the bindings raise TypeError with no more than "returned nullptr"
            raise MissingDependencyError(f"The builder of {flavour} does not start here. {self._log.text()}") from error

    def build(self, model: bytes, name: str, ranges: Ranges) -> bytes:
        """An engine with one optimisation profile over every dynamic axis.

        Args:
            model: a serialised ONNX segment.
            name: of the segment, for errors.
            ranges: of each axis name in the segment's inputs.

        Raises:
            ExportError: the segment does not parse, or no engine comes out; the message carries TensorRT's log.
        """
        trt = self._trt
        self._log.clear()
        # TensorRT 10 needs the flag; from 11 on there are no other networks, and the flag may go
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = self._builder.create_network(0 if flag is None else 1 << int(flag))
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse(model):
            errors = "\n".join(str(parser.get_error(index)) for index in range(parser.num_errors))
            raise ExportError(f"The segment {name} does not parse:\n{errors}\n{self._log.text()}")
        profile = self._builder.create_optimization_profile()
        for value in onnx.load_from_string(model).graph.input:
            axes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            least, usual, greatest = (tuple(ranges[a][i] if a in ranges else a for a in axes) for i in range(3))
            profile.set_shape(value.name, least, usual, greatest)
        config = self._builder.create_builder_config()
        config.add_optimization_profile(profile)
        if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # RTX: without it a CUDA graph cannot capture a run
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        engine = self._builder.build_serialized_network(network, config)
        if engine is None:
            raise ExportError(f"No engine could be built of the segment {name}:\n{self._log.text()}")
        return bytes(engine)
