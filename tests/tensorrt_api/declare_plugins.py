"""Declares our plugins to the bindings of one TensorRT version, and prints what they made of it, as JSON.

    python declare_plugins.py FOLDER    # where `tensorrt_bindings` is, as record.unpack left it

A process of its own for each version: the bindings cannot be unloaded, and one that does not like a plugin ends it. The
registry is a list, since the real one is in a library that is not here.
"""

from __future__ import annotations

import importlib
import json
import sys

from psamf_edge.errors import UsageError
from psamf_edge.kernels.cross_modal_attention.launcher import launch_shape


class Registry:
    def __init__(self) -> None:
        self.creators: list = []

    def register_creator(self, creator, namespace: str = "") -> None:
        self.creators.append((creator, namespace))

    def get_creator(self, name: str, version: str, namespace: str):
        return next(c for c, n in self.creators if (c.name, c.plugin_version, n) == (name, version, namespace))


def main(folder: str) -> dict:
    sys.path.insert(0, folder)
    trt = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = trt  # as the wheel `tensorrt`, which holds nothing else, makes it known
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    return {"python": declare_python(trt, registry), "ahead of time": declare_ahead_of_time(trt, registry)}


def declare_python(trt, registry: Registry) -> dict:
    from psamf_edge.kernels.plugin import python_plugin

    held = python_plugin.register(trt, driver=None)
    ((creator, namespace),) = registry.creators
    assert creator is held
    for _ in range(1000):  # as often as plugins are made, cloned and let go
        plugin = creator.create_plugin("node", None, trt.TensorRTPhase.RUNTIME)
        plugin = plugin.attach_to_context(None)
    FLOAT, HALF, INT32 = trt.DataType.FLOAT, trt.DataType.HALF, trt.DataType.INT32
    registry.creators.clear()
    return {
        "creator": [creator.name, namespace, creator.plugin_version, len(list(creator.field_names))],
        "plugin": [plugin.plugin_name, plugin.plugin_namespace, plugin.plugin_version, plugin.num_outputs],
        "types": [plugin.get_output_data_types([kind, kind, kind, INT32, kind]) == [kind] for kind in (FLOAT, HALF)],
        "fields": len(list(plugin.get_fields_to_serialize())),
        "kinds": [isinstance(plugin, getattr(trt, kind)) for kind in ("IPluginV3OneBuild", "IPluginV3OneRuntime")],
    }


def declare_ahead_of_time(trt, registry: Registry) -> dict | str:
    from psamf_edge.kernels.plugin import ahead_of_time

    ahead_of_time.nvrtc = lambda source, arch: f"{arch}: {'psamf_cross_modal_attention_f32' in source}".encode()
    try:
        sys.modules["tensorrt.plugin"] = plugin = importlib.import_module("tensorrt_bindings.plugin")
        trt.plugin = plugin
    except ImportError:
        pass  # 10.3 has none, and the declaration must say so
    try:
        ahead_of_time.declare(trt, "compute_87")
    except UsageError as error:
        return str(error)
    plugin._tensor.SymIntExpr._exprBuilder = Numbers()
    made = plugin._lib.QDP_REGISTRY["psamf::CrossModalAttention"]
    query, audio, face = (desc(plugin, shape, trt.float16) for shape in ((1, 4, 64), (1, 375, 64), (1, 300, 64)))
    inputs = (query, audio, face, desc(plugin, (1, 4, 2), trt.int32), desc(plugin, (2, 49920), trt.float16))
    output = made.register_func(*inputs)
    name, code, launch, scalars = made.aot_impl_func(*inputs, (output,), 0)
    sizes = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")
    values = [number(getattr(launch, size)) for size in sizes]
    grid, block, shared = launch_shape(1, 4, 375, 300)
    return {
        "creators": [[creator.name, namespace] for creator, namespace in registry.creators],
        "inputs": made.input_tensor_names,
        "outputs": made.num_outputs,
        "contexts": [number(size) for size in output.shape_expr],
        "half": output.dtype == trt.float16,
        "entry": name,
        "code": code.decode(),
        "launch": values == [*grid, *block, shared],
        "scalars": [number(size) for size in scalars],
    }


class Numbers:
    """In place of TensorRT's builder of symbolic expressions, whose constants are in the library."""

    def constant(self, value: int) -> int:
        return value


def desc(plugin, shape: tuple[int, ...], dtype):
    return plugin.from_shape_expr(tuple(plugin.ShapeExpr(size) for size in shape), dtype)


def number(expression) -> int:
    return expression if isinstance(expression, int) else expression._expr


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
