"""The few questions to NVIDIA's management library that a benchmark has: memory, energy, clocks, throttling.

Asked through ctypes, so that no package is needed. Jetson boards have no NVML for most of it, and say so.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

Loader = Callable[[str], ctypes.CDLL]

NVML_CLOCK_GRAPHICS, NVML_TEMPERATURE_GPU = 0, 0
# bits of nvmlDeviceGetCurrentClocksThrottleReasons that slow a GPU down; idleness and a user's own clocks do not
THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


class NvmlError(Exception):
    """NVML is not here, or does not tell. The message says which."""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Nvml:
    """The GPU that CUDA calls the first. Close it.

    Args:
        load: opens a shared library by name.

    Raises:
        NvmlError: there is no driver or no such GPU.
    """

    def __init__(self, load: Loader = ctypes.CDLL) -> None:
        try:
            self._library = load("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        except OSError as error:
            raise NvmlError("NVIDIA's NVML is not on this machine") from error
        self._call("nvmlInit_v2")
        try:
            self._device = self._find(first_uuid(load))
        except BaseException:
            self.close()
            raise

    def used_mb(self) -> float:
        """Memory in use on the device, by everybody, in MB of 10^6 bytes."""
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._device, ctypes.byref(memory))
        return memory.used / 1e6

    def energy_mj(self) -> int:
        """Millijoules since the driver was loaded."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption", kind=ctypes.c_ulonglong)

    def clock_mhz(self) -> int:
        """The graphics clock now."""
        return self._number("nvmlDeviceGetClockInfo", NVML_CLOCK_GRAPHICS)

    def temperature(self) -> int:
        """Of the chip, in degrees Celsius."""
        return self._number("nvmlDeviceGetTemperature", NVML_TEMPERATURE_GPU)

    def throttled_by(self) -> list[str]:
        """What holds the clocks down now."""
        bits = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", kind=ctypes.c_ulonglong)
        return [reason for bit, reason in THROTTLING.items() if bits & bit]

    def close(self) -> None:
        """Let the library go."""
        self._library.nvmlShutdown()

    def _find(self, uuid: str | None) -> ctypes.c_void_p:
        device, count = ctypes.c_void_p(), ctypes.c_uint()
        problem = None
        # where a Jetson board has NVML, it knows its GPU without the prefix
        for name in () if uuid is None else (uuid, uuid.removeprefix("GPU-")):
            try:
                self._call("nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(device))
                return device
            except NvmlError as error:
                problem = problem or error
        if problem is not None:
            self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
            if count.value != 1:  # which of several it is nobody can tell
                raise problem
        self._call("nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(device))
        return device

    def _number(self, name: str, *arguments: int, kind: type = ctypes.c_uint) -> int:
        value = kind()
        self._call(name, self._device, *arguments, ctypes.byref(value))
        return value.value

    def _call(self, name: str, *arguments: object) -> None:
        try:
            code = getattr(self._library, name)(*arguments)
        except AttributeError as error:
            raise NvmlError(f"this NVML has no {name}") from error
        if code:
            raise NvmlError(f"{name} gives {code}")


def first_uuid(load: Loader) -> str | None:
    """The identity of CUDA's first device, as NVML writes it: the two number GPUs in different orders."""
    try:
        cuda = load("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    raw = (ctypes.c_ubyte * 16)()
    if cuda.cuInit(0) or cuda.cuDeviceGetUuid(ctypes.byref(raw), 0):
        return None
    digits = bytes(raw).hex()
    return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
