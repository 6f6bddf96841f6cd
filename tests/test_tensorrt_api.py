"""Our use of TensorRT's Python API, held against what the real bindings of several versions say of themselves.

tests/tensorrt_api/*.json were written by record.py from NVIDIA's wheels; the slow test writes them again and compares.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from tensorrt_wheels import HERE, load, record, wheel_or_skip

ROOT = Path(__file__).parents[1]


usage = load("usage")
RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}
USES = usage.uses(ROOT)

# Everything that the runtime, the builder and the plugin ask of TensorRT. A new line is a claim about five versions.
USED = {
    "module": {
        "Builder", "BuilderFlag", "ComputeCapability", "DataType", "DimsExprs",
        "DynamicShapesKernelSpecializationStrategy", "ExecutionContextAllocationStrategy", "ILogger",
        "IPluginCreatorV3One", "IPluginV3", "IPluginV3OneBuild", "IPluginV3OneCore", "IPluginV3OneRuntime",
        "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "PluginFieldCollection",
        "Runtime", "TensorFormat", "__name__", "__version__", "get_plugin_registry", "nptype",
    },
    "Builder": {
        "build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile",
        "max_threads",
    },
    "ComputeCapability": {"SM75"},
    "DataType": {"FLOAT", "HALF", "INT32"},
    "DynamicShapesKernelSpecializationStrategy": {"EAGER"},
    "ExecutionContextAllocationStrategy": {"USER_MANAGED"},
    "IBuilderConfig": {
        "add_optimization_profile", "create_timing_cache", "get_timing_cache", "max_aux_streams",
        "num_compute_capabilities", "set_compute_capability", "set_flag", "set_memory_pool_limit", "set_timing_cache",
    },
    "BuilderFlag": {"REQUIRE_USER_ALLOCATION"},
    "ICudaEngine": {
        "create_execution_context", "create_runtime_config", "device_memory_size_v2", "get_tensor_dtype",
        "get_tensor_profile_shape",
    },
    "IExecutionContext": {
        "execute_async_v3", "get_tensor_shape", "is_stream_capturable", "set_device_memory", "set_input_shape",
        "set_tensor_address",
    },
    "IExprBuilder": {"constant"},
    "ILogger": {"ERROR", "INTERNAL_ERROR", "WARNING"},
    "INetworkDefinition": {"get_input", "num_inputs"},
    "IOptimizationProfile": {"set_shape"},
    "IPluginRegistry": {"deregister_creator"},
    "IRuntimeCache": {"deserialize", "serialize"},
    "IRuntimeConfig": {
        "create_runtime_cache", "dynamic_shapes_kernel_specialization_strategy",
        "set_execution_context_allocation_strategy", "set_runtime_cache",
    },
    "ITensor": {"get_dimension_name", "name", "shape"},
    "ITimingCache": {"serialize"},
    "MemoryPoolType": {"WORKSPACE"},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
    "OnnxParser": {"get_error", "num_errors", "parse", "supports_model_v2"},
    "ParserError": {"desc", "node_name", "node_operator"},
    "Runtime": {"deserialize_cuda_engine"},
    "TensorFormat": {"LINEAR"},
}  # fmt: skip
# What a version may lack, because the code asks first: TensorRT-RTX alone has lazy kernels, can say whether it may be
# captured and is told which GPUs to build for. TensorRT 11 has no other networks than strongly typed ones; 11.4 still
# knows the flag.
ASKED_FIRST = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION", "module.ComputeCapability",
    "module.DynamicShapesKernelSpecializationStrategy", "IExecutionContext.is_stream_capturable",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
}  # fmt: skip
BEHIND_THEM = {"ICudaEngine.create_runtime_config", "DynamicShapesKernelSpecializationStrategy.EAGER"}
BEHIND_THEM |= {"ComputeCapability.SM75"}
BEHIND_THEM |= {f"IBuilderConfig.{name}" for name in ("num_compute_capabilities", "set_compute_capability")}
BEHIND_THEM |= {f"{kind}.{name}" for kind in ("IRuntimeCache", "IRuntimeConfig") for name in USED[kind]}


def test_the_versions_that_devices_have_are_recorded() -> None:
    flavours = {name: found["version"] for name, found in RECORDS.items()}
    assert set(flavours) == {f"tensorrt-{version}" for version in record.VERSIONS} | {"tensorrt_rtx-1.7.1.116"}
    assert all(len(found["sha256"]) == 64 for name, found in RECORDS.items() if name.startswith("tensorrt-"))


def test_the_list_is_what_the_code_uses() -> None:
    found: dict[str, set[str]] = {}
    for use in USES:
        found.setdefault(use.kind, set()).add(use.member)
    assert found == USED
    assert {f"{use.kind}.{use.member}" for use in USES if use.asked} == ASKED_FIRST


def known(found: dict, kind: str, member: str) -> list[str] | str | None:
    """What a record says of a member; None if the version lacks it."""
    if kind == "module":
        if member in found["classes"]:
            return found["classes"][member].get("__init__", "value")
        return "value" if member in ("__name__", "__version__") else found["functions"].get(member)
    return found["classes"].get(kind, {}).get(member)


@pytest.mark.parametrize("version", RECORDS)
def test_every_member_is_there(version: str) -> None:
    for use in USES:
        name = f"{use.kind}.{use.member}"
        if name not in ASKED_FIRST | BEHIND_THEM:
            assert known(RECORDS[version], use.kind, use.member) is not None, f"{version} lacks {name} ({use.where})"


def test_what_is_asked_for_first_exists_where_it_is_meant_for() -> None:
    rtx = RECORDS["tensorrt_rtx-1.7.1.116"]
    for name in ASKED_FIRST | BEHIND_THEM:
        assert known(rtx, *name.split(".")) is not None, name


@pytest.mark.parametrize("version", RECORDS)
def test_every_call_has_as_many_arguments_as_it_takes(version: str) -> None:
    checked = 0
    for use in USES:
        overloads = known(RECORDS[version], use.kind, use.member)
        if use.arguments is not None and isinstance(overloads, list):
            checked += 1
            ranges = [arity(signature) for signature in overloads]
            assert any(low <= use.arguments <= high for low, high in ranges), (use, overloads)
    assert checked >= 20


@pytest.mark.parametrize("version", RECORDS)
def test_the_plugin_answers_what_tensorrt_calls(version: str) -> None:
    source = ast.parse((ROOT / "kernels/plugin/python_plugin.py").read_text())
    classes = {node.name: node for node in ast.walk(source) if isinstance(node, ast.ClassDef)}
    bases = {
        "CrossModalAttention": ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime"),
        "Creator": ("IPluginCreatorV3One",),
    }
    for name, kinds in bases.items():
        methods = [node for node in classes[name].body if isinstance(node, ast.FunctionDef) and node.name != "__init__"]
        assert methods
        for method in methods:
            found = [known(RECORDS[version], kind, method.name) for kind in kinds]
            (overloads,) = [signatures for signatures in found if signatures]
            assert arity(overloads[0])[1] == len(method.args.args) - 1, (method.name, overloads)


def arity(signature: str) -> tuple[int, int]:
    """The least and the most arguments that a signature takes, `self` not counted."""
    inner = re.sub(r"<[^<>]*>", "", signature[1:-1])  # default values that are objects
    while re.search(r"\[[^\[\]]*\]", inner):
        inner = re.sub(r"\[[^\[\]]*\]", "", inner)
    parameters = [text for text in (part.strip() for part in inner.split(",")) if text and not text.startswith("self")]
    return sum("=" not in text for text in parameters), len(parameters)


def test_arity() -> None:
    assert arity("(self: ICudaEngine, name: str, profile_index: int)") == (2, 2)
    assert arity("(self: A, strategy: B = <B.STATIC: 0>, more: list[tuple[int, str]] = None)") == (0, 2)
    assert arity("(trt_type)") == (1, 1)


@pytest.mark.trt
def test_the_installed_rtx_is_the_recorded_one() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx")
    if f"tensorrt_rtx-{rtx.__version__}" not in RECORDS:
        pytest.skip(f"TensorRT-RTX {rtx.__version__} is installed, which is not recorded")
    assert record.describe(rtx) == RECORDS[f"tensorrt_rtx-{rtx.__version__}"]


@pytest.mark.slow
@pytest.mark.parametrize("version", record.VERSIONS)
def test_the_records_are_what_the_wheels_say(version: str, tmp_path: Path) -> None:
    wheel = wheel_or_skip(version, tmp_path)
    found = record.record_wheel(wheel)
    kept = RECORDS[f"tensorrt-{version}"]
    # a wheel for another Python has another name and hash, and the same API
    assert {key: found[key] for key in ("version", "classes", "functions")} == {
        key: kept[key] for key in ("version", "classes", "functions")
    }
