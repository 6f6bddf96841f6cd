"""Which of the two plugins a TensorRT takes, and its registration for as long as something needs it.

TensorRT's registry belongs to the process. A declaration ahead of time is made once and stays: it is inert without a
build. The plugin in Python holds a driver, so the first that needs it registers it, and the last takes it back.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from psamf_edge.backends.driver import Driver, open_driver
from psamf_edge.errors import UsageError
from psamf_edge.kernels.plugin import ahead_of_time, python_plugin

AHEAD_OF_TIME, PYTHON = "ahead_of_time", "python"  # psamf_edge.bundle.PLUGINS
FIRST = (10, 3)  # JetPack 6's: what came before has not been held against its bindings
PYTHON_CLASSES = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One")

_lock = threading.Lock()
_users = 0
_held: tuple[Any, Driver] | None = None  # the creator in the registry, and the driver that it launches with


def choose(trt: ModuleType) -> str:
    """Ahead of time where this TensorRT can, else in Python.

    Raises:
        UsageError: it can neither; the message names what is missing.
    """
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    missing = [name for name in PYTHON_CLASSES if not hasattr(trt, name)]
    if trt.__name__.startswith("tensorrt_rtx"):
        reason = "has no plugins"
    elif version < FIRST:
        reason = f"is older than {FIRST[0]}.{FIRST[1]}, the first whose plugins are known to fit"
    elif ahead_of_time.FIRST <= version != ahead_of_time.BROKEN and _takes_ahead_of_time(trt):
        return AHEAD_OF_TIME
    elif missing:
        reason = f"lacks the class {missing[0]}"
    else:
        return PYTHON
    raise UsageError(
        f"{trt.__name__} {trt.__version__} {reason}: use `--fusion kernel`, which launches the same kernel between two"
        " engines."
    )


def _takes_ahead_of_time(trt: ModuleType) -> bool:
    try:
        return hasattr(importlib.import_module(f"{trt.__name__}.plugin"), "aot_impl")
    except ImportError:
        return False


@contextmanager
def registered(trt: ModuleType, kind: str) -> Iterator[None]:
    """Have the plugin in TensorRT's registry: to build with it, and for AHEAD_OF_TIME for nothing else.

    Args:
        trt: the module `tensorrt`.
        kind: one of psamf_edge.bundle.PLUGINS.

    Raises:
        UsageError: this TensorRT takes no such plugin.
        MissingDependencyError: no driver or no GPU.
    """
    if kind == AHEAD_OF_TIME:
        _declare(trt)
        yield
        return
    _enter(trt)
    try:
        yield
    finally:
        _leave(trt)


@functools.cache
def _declare(trt: ModuleType) -> None:
    driver = open_driver()
    major, minor = driver.capability
    driver.close()
    ahead_of_time.declare(trt, f"compute_{major}{minor}")


def _enter(trt: ModuleType) -> None:
    global _users, _held
    with _lock:
        if _held is None:
            driver = open_driver()
            try:
                _held = python_plugin.register(trt, driver), driver
            except BaseException:
                driver.close()
                raise
        _users += 1


def _leave(trt: ModuleType) -> None:
    global _users, _held
    with _lock:
        _users -= 1
        if _users == 0:
            creator, driver = _held
            _held = None
            trt.get_plugin_registry().deregister_creator(creator)
            driver.close()
