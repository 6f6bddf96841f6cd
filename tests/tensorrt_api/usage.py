"""What our code asks of TensorRT, read from its source: which members of which class, with how many arguments."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

MODULE = "module"
# how the files below name TensorRT's objects; a new name for one must be added here, and test_tensorrt_api.py finds out
OBJECTS = {
    "psamf_edge/backends/tensorrt.py": {"trt": MODULE},
    "psamf_edge/backends/engines.py": {
        "trt": MODULE, "self._trt": MODULE, "runtime": "Runtime", "context": "IExecutionContext",
        "engine": "ICudaEngine", "self._engine": "ICudaEngine", "config": "IRuntimeConfig",
        "self._compiled": "IRuntimeCache",
    },
    "psamf_edge/backends/engine_builder.py": {
        "trt": MODULE, "self._trt": MODULE, "self._builder": "Builder", "network": "INetworkDefinition",
        "parser": "OnnxParser", "profile": "IOptimizationProfile", "config": "IBuilderConfig", "tensor": "ITensor",
        "config.get_timing_cache()": "ITimingCache", "error": "ParserError",
    },
    "kernels/plugin/registration.py": {"trt": MODULE, "trt.get_plugin_registry()": "IPluginRegistry"},
    "kernels/plugin/python_plugin.py": {"trt": MODULE, "build": "IExprBuilder"},
}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """One member that is asked for.

    asked: it is asked for with hasattr or getattr first, so a version may lack it.
    arguments: the numbers of arguments that it is called with; None if it is not called.
    """

    where: str
    kind: str  # a class of TensorRT, or MODULE
    member: str
    asked: bool
    arguments: int | None


def uses(root: Path) -> list[Use]:
    """All uses in the files of OBJECTS, under the repository's root."""
    return [use for path, names in OBJECTS.items() for use in _uses(path, (root / path).read_text(), names)]


def _uses(where: str, source: str, names: dict[str, str]) -> list[Use]:
    found = []
    tree = ast.parse(source)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            kind = _kind(node.value, names)
            if kind:
                call = calls.get(id(node))
                count = None if call is None else len(call.args) + len(call.keywords)
                found.append(Use(where, kind, node.attr, False, count))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr"):
            kind = _kind(node.args[0], names)
            if kind and isinstance(node.args[1], ast.Constant):
                found.append(Use(where, kind, node.args[1].value, True, None))
    return found


def _kind(node: ast.expr, names: dict[str, str]) -> str | None:
    """The class of TensorRT that an expression is, if it is one: by its name, or as a member of the module."""
    text = ast.unparse(node)
    if text in names:
        return names[text]
    if isinstance(node, ast.Attribute) and _kind(node.value, names) == MODULE and not node.attr.startswith("__"):
        return node.attr
    return None
