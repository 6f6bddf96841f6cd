"""nvcc and NVRTC compile the kernel for every supported GPU, within a budget of registers and shared memory."""

import shutil

import pytest

from psamf_edge.errors import MissingDependencyError, PsamfError, UsageError
from psamf_edge.kernels import compiler
from psamf_edge.kernels.compiler import ARCHITECTURES, Resources, nvcc, nvrtc, nvrtc_version, resources
from psamf_edge.kernels.cross_modal_attention.launcher import BLOCK, ENTRIES, SOURCE
from psamf_edge.kernels.cross_modal_attention.versions import LAB, entries

TEXT = SOURCE.read_text()
REGISTERS = 65536  # of a multiprocessor, Turing to Blackwell
STATIC_SHARED = 48 << 10  # bytes, the most without asking the driver for more
# Two blocks on a multiprocessor in half precision. In float32 the matrices that wait in registers take twice as many,
# and one block has a multiprocessor for itself: 184 leaves room for a compiler that allots a few more than today's 173.
BUDGET = {"psamf_cross_modal_attention_f16": REGISTERS // BLOCK[0] // 2, "psamf_cross_modal_attention_f32": 184}


def has_nvrtc() -> bool:
    try:
        nvrtc("", "compute_80")
    except MissingDependencyError:
        return False
    return True


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="cuda-bindings or NVRTC is not installed")


@needs_nvcc
def test_nvcc_compiles_for_every_gpu_within_the_budget():
    table = resources(TEXT, [f"sm_{number}" for number in ARCHITECTURES])
    assert sorted(table) == sorted(f"sm_{number}" for number in ARCHITECTURES)
    for arch, kernels in table.items():
        assert sorted(kernels) == sorted(ENTRIES.values())
        for name, used in kernels.items():
            assert used.spills == used.stack == 0, f"{name} on {arch}: {used}"
            assert used.registers <= BUDGET[name], f"{name} on {arch}: {used}"
            assert 0 < used.shared <= STATIC_SHARED, f"{name} on {arch}: {used}"


@needs_nvrtc
@pytest.mark.parametrize("number", ARCHITECTURES)
def test_nvrtc_compiles_for_every_gpu(number):
    code = nvrtc(TEXT, f"sm_{number}")
    assert code.startswith(b"\x7fELF")
    assert all(name.encode() in code for name in ENTRIES.values())


@pytest.mark.parametrize("compile_text", [pytest.param(nvcc, marks=needs_nvcc), pytest.param(nvrtc, marks=needs_nvrtc)])
def test_ptx_has_both_kernels(compile_text):
    ptx = compile_text(TEXT, "compute_75").decode()
    assert ".target sm_75" in ptx
    assert all(f".entry {name}(" in ptx for name in ENTRIES.values())
    assert "local" not in ptx.split(".entry")[1]  # no array in local memory


@needs_nvrtc
def test_the_lab_compiles():
    code = nvrtc(LAB.read_text(), "sm_87")
    assert all(name.encode() in code for name in (*entries(LAB), "nothing"))


@needs_nvrtc
def test_nvrtc_says_its_version():
    major, minor = nvrtc_version()
    assert major >= 12
    assert minor >= 0


def test_no_header_is_included():
    for source in (SOURCE, LAB):
        assert "#include" not in source.read_text()


@needs_nvrtc
def test_nvrtc_says_what_is_wrong():
    with pytest.raises(PsamfError, match=r"(?s)NVRTC_ERROR_COMPILATION.*kernel.cu\(1\): error"):
        nvrtc("__global__ void broken( {}", "sm_80")
    with pytest.raises(PsamfError, match="architecture"):
        nvrtc(TEXT, "sm_20")


@needs_nvcc
def test_nvcc_says_what_is_wrong():
    with pytest.raises(PsamfError, match=r"(?s)does not compile.*kernel.cu\(1\): error"):
        nvcc("__global__ void broken( {}", "sm_80")


@pytest.mark.parametrize("arch", ["87", "sm_8.7", "compute_", "native; rm", "sm_87 -lfoo"])
def test_malformed_architectures_are_refused(arch):
    for compile_text in (nvcc, nvrtc):
        with pytest.raises(UsageError, match="sm_NN or compute_NN"):
            compile_text("", arch)


def test_missing_tools_are_said(monkeypatch):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="nvcc is not on PATH"):
        nvcc("", "sm_87")
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    with pytest.raises(MissingDependencyError, match="pip install cuda-bindings nvidia-cuda-nvrtc"):
        nvrtc("", "sm_87")


def test_ptxas_reports_are_read():
    """A kernel that spills, as CUDA 13.0 reports it."""
    report = (
        "ptxas info    : 0 bytes gmem\n"
        "ptxas info    : Compiling entry function 'a_f32' for 'sm_90'\n"
        "ptxas info    : Function properties for a_f32\n"
        "    24 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads\n"
        "ptxas info    : Used 32 registers, used 1 barriers, 24 bytes cumulative stack size, 1024 bytes smem\n"
        "ptxas info    : Compiling entry function 'b' for 'sm_90'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 8 registers, used 0 barriers\n"
    )
    assert compiler._read_report(report) == {
        "sm_90": {"a_f32": Resources(32, 24, 36, 1024), "b": Resources(8, 0, 0, 0)},
    }
