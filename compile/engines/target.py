"""The builder of the machine that compiles, for the target that is compiled for."""

from __future__ import annotations

from contextlib import closing, suppress

from psamf_edge.backends.driver import open_driver
from psamf_edge.backends.engine_builder import BuildOptions, EngineBuilder
from psamf_edge.backends.engines import FLAVOURS, load_tensorrt
from psamf_edge.errors import MissingDependencyError


def open_builder(target: str, options: BuildOptions) -> EngineBuilder:
    """A builder for "rtx" or "tensorrt".

    Raises:
        MissingDependencyError: the flavour is not installed, or its builder does not start (full TensorRT: no GPU).
    """
    flavour, capability, model = FLAVOURS[target], None, None
    load_tensorrt(flavour)
    if target == "tensorrt":
        with suppress(MissingDependencyError), closing(open_driver()) as driver:  # TensorRT itself asks for no binding
            capability, model = "{}.{}".format(*driver.capability), driver.model
    return EngineBuilder(flavour, options, capability, model)
