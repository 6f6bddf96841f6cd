"""The driver: NVIDIA's real cuda-bindings over a libcuda that is a hundred lines of C, which notes what reaches it.

What the fronts in fake_cuda.py take for granted is thereby checked: that the real package has these functions, takes
these arguments and gives these results.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import install_cuda_bindings, install_pycuda
from fake_gpu import FakeGpu

from psamf_edge.backends.driver import Driver, open_driver

SCRIPT = """
import ctypes
import numpy as np
from psamf_edge.backends.driver import open_driver
from psamf_edge.errors import PsamfError

driver = open_driver()
print(driver.name, driver.capability, driver.shares_memory, driver.model, driver.cuda)
with driver.current():
    stream, event = driver.stream(), driver.event()
    buffer = driver.host_buffer(64, mapped=True)
    assert buffer.address == buffer.array.ctypes.data  # in this libcuda
    buffer.array[:] = 7
    memory = driver.allocate(64)
    driver.copy_in(memory, buffer, 32, stream)
    buffer.array[:] = 0
    driver.copy_out(buffer, memory, 24, stream)
    driver.synchronise(stream)
    assert buffer.array.tolist() == [7] * 24 + [0] * 40
    driver.record(event, stream)
    driver.wait(stream, event)
    weights = driver.upload(np.arange(6, dtype=np.float32)[::2])
    assert np.ctypeslib.as_array((ctypes.c_float * 3).from_address(weights)).tolist() == [0, 2, 4]
    assert driver.upload(np.zeros((1, 0, 64), np.float32))
    kernel = driver.kernel(b"PTX", "entry")
    arguments = [np.uint64(0xabc)] * 5 + [np.int32(size) for size in (1, 4, 37, -5)] + [np.uint64(2**64 - 1)]
    launch = lambda: driver.launch(kernel, (1, 4, 2), (256, 1, 1), 0, stream, arguments)
    graph = driver.capture(stream, launch)
    driver.launch_graph(graph, stream)
    driver.free_graph(graph)
    try:
        driver.capture(stream, lambda: 1 / 0)
    except ZeroDivisionError:
        pass
    try:
        driver.allocate(2**21)
    except PsamfError as error:
        print(error)
driver.close()
driver.close()
log = ctypes.CDLL("libcuda.so.1").psamf_log
log.restype = ctypes.c_char_p
print(log().decode())
"""


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None or sys.platform != "linux":
        pytest.skip("gcc makes the libcuda.so.1 that the bindings load")
    directory = tmp_path_factory.mktemp("libcuda")
    source = Path(__file__).with_name("fake_libcuda.c")
    command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", directory / "libcuda.so.1", source]
    subprocess.run([*command, "-ldl"], check=True, timeout=60)
    return directory


def test_what_reaches_libcuda(libcuda: Path) -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install cuda-bindings")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libcuda)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "cuda-bindings (8, 7) True Orin with 14 multiprocessors (13, 0)",
        "The CUDA driver failed in cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY.",
        "init",
        "attribute 75", "attribute 76", "attribute 18", "attribute 19", "attribute 16",
        "retain",
        "push 77",
        "stream 1 -> 4097",  # non-blocking
        "event 2 -> 4098",  # no clock
        "host 64 2",  # mapped
        "alloc 64",
        "in 32 4097",
        "out 24 4097",
        "synchronise 4097",
        "record 4098 4097",
        "wait 4097 4098 0",
        "alloc 12", "upload 12", "synchronise 0",  # of the default stream, on which that copy is
        "alloc 1",  # for an array without numbers
        "load PTX", "module 0 -> 4099",
        "function entry", "entry 0 -> 4100",
        "capture 4097 1",  # thread-local
        "launch 4100 1,4,2 256,1,1 0 4097: abc 1 -5 ffffffffffffffff 0",
        "end 4097", "graph 0 -> 4101",
        "instantiate 4101", "exec 0 -> 4102", "destroy graph 4101",
        "launch graph 4102 4097", "destroy exec 4102",
        "capture 4097 1", "end 4097", "graph 0 -> 4103", "destroy graph 4103",  # the one that went wrong
        "alloc 2097152",
        "pop",
        "push 77",
        "unload 4099", "free", "free", "free", "free host", "destroy event 4098", "destroy stream 4097",
        "pop",
        "release",
        "",
    ]  # fmt: skip


@pytest.fixture(params=[install_cuda_bindings, install_pycuda], ids=["cuda-bindings", "pycuda"])
def driver(request: pytest.FixtureRequest, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch):
    """Each binding's driver over the stand-in GPU, which has to be clean in the end."""
    request.param(gpu, monkeypatch)
    opened = open_driver()
    with opened.current():
        yield opened
    opened.close()
    assert gpu.is_clean


def test_what_a_driver_says_of_itself(driver: Driver) -> None:
    assert (driver.capability, driver.model, driver.cuda) == ((8, 7), "Orin with 16 multiprocessors", (13, 0))


def test_an_upload_is_there_when_it_returns(driver: Driver) -> None:
    """Our streams wait for no other, so nothing else would make a kernel wait for the copy."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for given in (values, values.T):
        address = driver.upload(given)
        there = np.ctypeslib.as_array((ctypes.c_float * 12).from_address(address))
        assert there.tolist() == given.ravel().tolist()


def test_nothing_can_be_uploaded(driver: Driver, gpu: FakeGpu) -> None:
    """A clip without voice or face has arrays without steps; CUDA allocates no 0 bytes."""
    assert driver.upload(np.zeros((1, 0, 64), np.float32)) in gpu.memory


def test_without_a_driver() -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install cuda-bindings")
    from psamf_edge.errors import MissingDependencyError

    try:
        driver = open_driver()
    except MissingDependencyError as error:
        reason = str(error)
    else:
        driver.close()
        pytest.skip("this machine has a driver and a GPU")
    assert "nvidia-smi" in reason
