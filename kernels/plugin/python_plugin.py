"""The kernel as an IPluginV3 in Python, for TensorRT 10.3 and later: the engine calls `enqueue`, which launches it.

An engine with it needs this creator registered wherever it runs, and the interpreter at every run; a CUDA graph that is
captured over the engine holds the launch alone.
"""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

import numpy as np

from psamf_edge.backends.driver import Driver
from psamf_edge.errors import UsageError
from psamf_edge.kernels.compiler import DeviceKernels
from psamf_edge.kernels.cross_modal_attention.launcher import SOURCE, entry, launch_shape
from psamf_edge.kernels.plugin import NAME, NAMESPACE, VERSION

LENGTHS = 3  # which input is int32; all others have one type
# The bindings of 10.3 damage the heap when a plugin made in Python is destroyed, those of 10.9 do not: before it, each
# plugin is kept for ever, which costs some hundred bytes for each execution context.
STURDY = (10, 9)


class Kernels:
    """The kernel's entries in a driver's context, loaded when a plugin first runs: building needs none."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._kernels = DeviceKernels(driver)

    def launch(self, dtype: np.dtype, sizes: tuple[int, int, int, int], pointers: list[int], stream: int) -> None:
        """Queue one launch. pointers: query, audio, face, lengths, weights, contexts; sizes: B, S, Ta, Tv."""
        with self._driver.current():
            kernel = self._kernels.get(SOURCE, entry(dtype))
            grid, block, shared = launch_shape(*sizes)
            *inputs, output = (np.uint64(pointer) for pointer in pointers)
            arguments = [*inputs, *(np.int32(size) for size in sizes), output]
            self._driver.launch(kernel, grid, block, shared, stream, arguments)


def plugin_creator(trt: ModuleType, kernels: Kernels) -> Any:
    """An IPluginCreatorV3One of TensorRT's for `psamf::CrossModalAttention`.

    Args:
        trt: the module `tensorrt`; the classes can only be made from its own.
        kernels: what the plugins launch.
    """
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])

    class CrossModalAttention(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
        def __init__(self) -> None:
            for base in CrossModalAttention.__bases__:  # pybind11 wants each of its own initialised
                base.__init__(self)
            self.plugin_namespace, self.plugin_name, self.plugin_version = NAMESPACE, NAME, VERSION
            self.num_outputs = 1
            if version < STURDY:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def get_output_data_types(self, types: list) -> list:
            return [types[0]]

        def get_output_shapes(self, inputs: list, shape_inputs: list, build: Any) -> list:
            shape = trt.DimsExprs(4)  # (2, B, S, d)
            shape[0] = build.constant(2)
            for axis in range(3):
                shape[axis + 1] = inputs[0][axis]
            return [shape]

        def supports_format_combination(self, position: int, values: list, inputs: int) -> bool:
            value, query = values[position].desc, values[0].desc
            if value.format != trt.TensorFormat.LINEAR:
                return False
            if position == LENGTHS:
                return value.type == trt.DataType.INT32
            return value.type == query.type and value.type in (trt.DataType.FLOAT, trt.DataType.HALF)

        def configure_plugin(self, inputs: list, outputs: list) -> None:
            """Nothing depends on the profile."""

        def on_shape_change(self, inputs: list, outputs: list) -> None:
            """Shapes are read where the kernel is launched."""

        def set_tactic(self, tactic: int) -> None:
            """There is one kernel."""

        def get_fields_to_serialize(self) -> Any:
            return trt.PluginFieldCollection([])

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def clone(self) -> Any:
            return CrossModalAttention()

        def enqueue(
            self, input_desc: list, output_desc: list, inputs: list, outputs: list, workspace: int, stream: int
        ) -> None:
            query, audio, face = (tuple(value.dims) for value in input_desc[:3])
            sizes = (query[0], query[1], audio[1], face[1])
            kernels.launch(np.dtype(trt.nptype(input_desc[0].type)), sizes, [*inputs, *outputs], stream)

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self) -> None:
            super().__init__()
            self.name, self.plugin_namespace, self.plugin_version = NAME, NAMESPACE, VERSION
            self.field_names = trt.PluginFieldCollection([])

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            return CrossModalAttention()

    return Creator()


def register(trt: ModuleType, driver: Driver) -> Any:
    """Register the plugin with full TensorRT. Keep what comes back for as long as engines with it are in use.

    Raises:
        UsageError: this is TensorRT-RTX, whose parser a registered creator would end.
    """
    if trt.__name__.startswith("tensorrt_rtx"):
        raise UsageError(
            "TensorRT-RTX takes no plugins, and must not see one registered: use the plan that launches the kernel"
            " between engines."
        )
    creator = plugin_creator(trt, Kernels(driver))
    trt.get_plugin_registry().register_creator(creator, NAMESPACE)
    return creator
