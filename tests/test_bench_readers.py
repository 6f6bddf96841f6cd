"""What the benchmark reads of a machine, from file systems and drivers that are not this one's."""

import contextlib
import errno
import os

import numpy as np
import pytest

from psamf_edge.backends.driver import HostBuffer
from psamf_edge.bench import conditions, energy, memory
from psamf_edge.bench.copies import RESULT_BYTES, copy_ms, input_bytes
from psamf_edge.bench.nvml import Nvml, NvmlError
from psamf_edge.plan import Features

STAT = "cpu  {} 0 {} {} 0 0 0 {} 0 0\ncpu0 1 0 1 1 0 0 0 0 0 0\ncpu1 1 0 1 1 0 0 0 0 0 0\nintr 12\n"


def test_memory_of_a_process(root):
    root("proc/77/status", "Name:\tx\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\nThreads:\t1\n")
    assert memory.resident_mb(77) == (1.024, 2.048)  # a kB of Linux is 1024 bytes
    assert memory.resident_mb(78) is None
    root("proc/79/status", "Name:\ta zombie has no memory\n")
    assert memory.resident_mb(79) is None


def test_the_peak_where_there_is_no_proc(root):
    resource = pytest.importorskip("resource", reason="POSIX only")
    assert memory.peak_mb() == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, rel=0.1)


def test_clocks_load_and_pressure(root):
    for core, mhz in enumerate((1800, 2900)):
        folder = f"sys/devices/system/cpu/cpu{core}/cpufreq"
        root(f"{folder}/scaling_cur_freq", f"{mhz * 1000}\n")
        root(f"{folder}/cpuinfo_max_freq", "3500000\n")
        root(f"{folder}/scaling_governor", "schedutil\n")
    root("proc/loadavg", "1.25 0.50 0.25 2/300 4242\n")
    root("proc/pressure/cpu", "some avg10=12.50 avg60=3.00 total=1\nfull avg10=0.00 avg60=0.00 total=0\n")
    root("proc/stat", STAT.format(100, 20, 300, 250))
    found = conditions.look()
    assert (found.cpu_mhz, found.cpu_max_mhz, found.governor) == (2900, 3500, "schedutil")
    assert (found.load, found.pressure) == (1.25, 12.5)
    assert found.stolen == 2.5  # 250 ticks of a hundredth of a second
    assert found.busy_cores is None


def test_a_system_that_tells_nothing(root):
    assert conditions.look() == conditions.Conditions()
    assert conditions.busy_cores(lambda seconds: None) is None


def test_what_others_use_while_we_sleep(root):
    root("proc/stat", STAT.format(0, 0, 0, 0))
    # of 100 ticks on two cores, 25 were idle: one core and a half is busy
    used = conditions.busy_cores(lambda seconds: root("proc/stat", STAT.format(50, 20, 25, 5)))
    assert used == pytest.approx(1.5)


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("20000 100000", 1), ("max 100000", 8), ("", 8)])
def test_a_containers_quota_limits_the_cores(root, monkeypatch, quota, cores):
    monkeypatch.setattr(conditions.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    root("sys/fs/cgroup/cpu.max", quota + "\n")
    assert conditions.usable_cores() == cores


def test_the_machine_has_a_name_cores_and_versions():
    described = conditions.describe_machine()
    assert described["cores"] >= 1
    assert {"psamf-edge", "python", "numpy", "onnxruntime", "av"} <= set(described["versions"])


def test_energy_of_a_processor(root):
    for number, joules in ((0, 10), (1, 20)):
        root(f"sys/class/powercap/intel-rapl:{number}/name", f"package-{number}\n")
        root(f"sys/class/powercap/intel-rapl:{number}/energy_uj", joules * 1_000_000)
        root(f"sys/class/powercap/intel-rapl:{number}/max_energy_range_uj", 262_143_000_000)
    root("sys/class/powercap/intel-rapl:0:0/name", "core\n")  # a part of package-0
    meters, reason = energy.rapl()
    assert [meter.name for meter in meters] == ["processor package-0 (RAPL)", "processor package-1 (RAPL)"]
    assert reason is None
    meters[0].start()
    root("sys/class/powercap/intel-rapl:0/energy_uj", 13_500_000)
    assert meters[0].stop() == pytest.approx(3.5)


def test_energy_that_may_not_be_read(root, tmp_path):
    root("sys/class/powercap/intel-rapl:0/name", "package-0\n")
    meters, reason = energy.rapl()  # there is no energy_uj; for a user who is not root it is there and closed
    assert meters == []
    assert "sudo chmod a+r" in reason


def rail(root, chip, channel, label, millivolts, milliamperes):
    """One channel of an INA3221, as Linux's driver shows it: one that the device tree does not name has no label."""
    folder = f"sys/class/hwmon/{chip}"
    root(f"{folder}/name", "ina3221\n")
    if label is not None:
        root(f"{folder}/in{channel}_label", f"{label}\n")
    root(f"{folder}/in{channel}_input", millivolts)
    root(f"{folder}/curr{channel}_input", milliamperes)


@pytest.fixture
def agx_orin(root):
    """The sensors of tegra234-p3701.dtsi and of its developer kit's carrier board."""
    root("sys/class/hwmon/hwmon0/name", "tmp451\n")
    rail(root, "hwmon1", 1, "VDD_GPU_SOC", 19_000, 200)
    rail(root, "hwmon1", 2, "VDD_CPU_CV", 19_000, 100)
    rail(root, "hwmon1", 3, "VIN_SYS_5V0", 5_000, 400)
    for channel, label in enumerate((None, "VDDQ_VDD2_1V8AO", None), 1):
        rail(root, "hwmon2", channel, label, 5_000, 70)
    for channel, label in enumerate(("CVB_ATX_12V", "CVB_ATX_3V3", "CVB_ATX_5V"), 1):
        rail(root, "hwmon3", channel, label, 12_000, 300)


@pytest.fixture
def disabled(monkeypatch):
    """Names of files that the driver shows, and that give no data: of channels which lead nowhere."""
    names, read = set(), energy.Path.read_text

    def read_text(path, *arguments, **options):
        if any(str(path).endswith(name) for name in names):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), str(path))
        return read(path, *arguments, **options)

    monkeypatch.setattr(energy.Path, "read_text", read_text)
    return names


def test_energy_of_an_agx_orin(root, agx_orin, disabled):
    disabled |= {f"hwmon2/{kind}{channel}_input" for kind in ("in", "curr") for channel in (1, 3)}
    (meter,), reason = energy.ina3221()
    assert reason is None
    # each watt once: the memory's rail hangs on that of 5 V, the carrier's are not the module's
    assert meter.name == "board, VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0 (INA3221)"
    assert meter._watts() == pytest.approx(19 * 0.3 + 5 * 0.4)
    disabled |= {"hwmon1/in3_input"}  # somebody has written 0 to in3_enable: what hangs on it counts
    (meter,), reason = energy.ina3221()
    assert meter.name == "board, VDD_GPU_SOC + VDD_CPU_CV + VDDQ_VDD2_1V8AO (INA3221)"
    disabled |= {"_input"}
    meters, reason = energy.ina3221()
    assert meters == []
    assert "cannot be read" in reason
    assert os.strerror(errno.ENODATA) in reason


def test_energy_of_an_orin_nano(root):
    for channel, label in enumerate(("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), 1):
        rail(root, "hwmon1", channel, label, 5_000, 400)
    (meter,), _ = energy.ina3221()
    assert meter.name == "board, VDD_IN (INA3221)"  # feeds the others
    assert meter._watts() == pytest.approx(2.0)
    meter.start()
    assert meter.stop() == pytest.approx(2.0 * (meter._readings[-1][0] - meter._readings[0][0]))


def test_energy_of_a_carrier_board_alone(root):
    rail(root, "hwmon1", 1, "CVB_ATX_12V", 12_000, 500)
    assert [meter.name for meter in energy.ina3221()[0]] == ["board, CVB_ATX_12V (INA3221)"]


def test_what_cannot_be_measured_says_why(root):
    meters, reasons = energy.find_meters(None)
    assert meters == []
    assert reasons == ["The processor does not tell its energy (no RAPL in /sys/class/powercap)."]
    root("etc/nv_tegra_release", "# R36 (release), REVISION: 4.0\n")
    assert any("INA3221" in reason for reason in energy.find_meters(None)[1])


class StandInNvml:
    """As much of libnvidia-ml as is asked for; also of libcuda."""

    def __init__(self, lacks=(), fails=(), uuids=None, count=1):
        self.asked_for, self.closed = None, False
        self.uuids, self.count = uuids, count  # the names that it knows; None: any
        numbers = {
            "nvmlDeviceGetTotalEnergyConsumption": 5000,
            "nvmlDeviceGetClockInfo": 1980,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x01 | 0x04 | 0x40,
        }
        for name, number in numbers.items():
            if name not in lacks:
                setattr(self, name, self.giving(number, 3 if name in fails else 0))

    @staticmethod
    def giving(number, code):
        def call(device, *arguments):
            arguments[-1]._obj.value = number
            return code

        return call

    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlShutdown(self):  # noqa: N802
        self.closed = True
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, handle):  # noqa: N802
        self.asked_for = uuid
        return 0 if self.uuids is None or uuid in self.uuids else 6  # NVML_ERROR_NOT_FOUND

    def nvmlDeviceGetCount_v2(self, count):  # noqa: N802
        count._obj.value = self.count
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):  # noqa: N802
        self.asked_for = index
        return 0

    def nvmlDeviceGetMemoryInfo(self, device, memory):  # noqa: N802
        memory._obj.used = 123_000_000
        return 0

    def cuInit(self, flags):  # noqa: N802
        return 0

    def cuDeviceGetUuid(self, raw, device):  # noqa: N802
        raw._obj[:] = range(16)
        return 0


def test_a_gpu_through_nvml():
    library = StandInNvml()
    gpu = Nvml(lambda name: library)
    assert library.asked_for == b"GPU-00010203-0405-0607-0809-0a0b0c0d0e0f"  # CUDA's first, whatever NVML calls it
    assert (gpu.used_mb(), gpu.energy_mj(), gpu.clock_mhz(), gpu.temperature()) == (123.0, 5000, 1980, 61)
    assert gpu.throttled_by() == ["power cap", "heat (hardware)"]  # idleness is no throttling
    found = conditions.look(gpu)
    assert (found.gpu_mhz, found.gpu_celsius, found.gpu_throttled) == (1980, 61, ["power cap", "heat (hardware)"])
    assert "GPU (NVML)" in [meter.name for meter in energy.find_meters(gpu)[0]]
    gpu.close()
    assert library.closed


def test_a_gpu_that_nvml_names_in_another_way():
    """On Orin a UUID has no `GPU-` before it."""
    bare = b"00010203-0405-0607-0809-0a0b0c0d0e0f"
    library = StandInNvml(uuids=[bare])
    Nvml(lambda name: library)
    assert library.asked_for == bare
    library = StandInNvml(uuids=[])
    Nvml(lambda name: library)
    assert library.asked_for == 0  # the only one there is
    library = StandInNvml(uuids=[], count=2)
    with pytest.raises(NvmlError, match="nvmlDeviceGetHandleByUUID gives 6"):
        Nvml(lambda name: library)
    assert library.closed


def test_a_gpu_that_tells_less():
    def load(name):
        if "cuda" in name:
            raise OSError(name)
        return StandInNvml(lacks=["nvmlDeviceGetClockInfo"], fails=["nvmlDeviceGetTotalEnergyConsumption"])

    gpu = Nvml(load)
    assert gpu._library.asked_for == 0  # without libcuda, NVML's first
    with pytest.raises(NvmlError, match="has no nvmlDeviceGetClockInfo"):
        gpu.clock_mhz()
    assert conditions.look(gpu).gpu_mhz is None
    assert any("nvmlDeviceGetTotalEnergyConsumption gives 3" in reason for reason in energy.find_meters(gpu)[1])


def test_no_nvml():
    def refuse(name):
        raise OSError(name)

    with pytest.raises(NvmlError, match="not on this machine"):
        Nvml(refuse)


class StandInDriver:
    """Of a Driver what copying needs; it notes what is done."""

    def __init__(self):
        self.done = []

    def current(self):
        return contextlib.nullcontext()

    def stream(self):
        return 7

    def host_buffer(self, size, mapped):
        assert not mapped
        return HostBuffer(np.empty(size, np.uint8), None)

    def allocate(self, size):
        return size

    def copy_in(self, address, buffer, size, stream):
        assert size <= address  # which is the size of the memory there
        self.done.append(("in", size))

    def copy_out(self, buffer, address, size, stream):
        assert len(buffer.array) >= size
        self.done.append(("out", size))

    def synchronise(self, stream):
        self.done.append("waited")


def test_copies_of_each_utterance_are_waited_for():
    driver = StandInDriver()
    assert len(copy_ms(driver, [100, 300], rounds=2, warmup=1)) == 2
    one = [("in", 100), ("out", RESULT_BYTES), "waited", ("in", 300), ("out", RESULT_BYTES), "waited"]
    assert driver.done == one * 3


def test_the_bytes_of_an_utterance():
    features = Features(np.zeros(5, np.int64), None, np.zeros((3, 4), np.float32))
    assert input_bytes(features) == 5 * 8 + 5 * 4 + 3 * 4 * 4 + 3 * 4  # values, and a float of mask for each step
