"""The shim that runs kernels on the CPU: does it notice what it claims to notice?"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from psamf_edge.errors import IntegrityError, MissingDependencyError, PsamfError, UsageError
from psamf_edge.kernels.cross_modal_attention.launcher import ENTRIES, SOURCE, launch_shape
from psamf_edge.kernels.cross_modal_attention.validation import draw
from psamf_edge.kernels.host.host import HostKernel

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: no kernel on the CPU")

SMALL = """
extern "C" __global__ void to_float(const unsigned short* half, float* value) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    value[i] = half_to_float(half[i]);
}
extern "C" __global__ void to_half(const float* value, unsigned short* half) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    half[i] = float_to_half(value[i]);
}
extern "C" __global__ void reverse(const int* in, int* out) {
    __shared__ int held[96];
    held[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = held[95 - threadIdx.x];
}
extern "C" __global__ void careless(const int* in, int* out) {
    __shared__ int held[96];
    held[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = held[95 - threadIdx.x];
}
extern "C" __global__ void sum_of_lanes(const int* in, int* out) {
    int sum = in[threadIdx.x];
    for (int bit = 16; bit; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
    out[threadIdx.x] = __shfl_sync(0xffffffffu, sum + (int)threadIdx.x, 3);
}
extern "C" __global__ void unwritten(float* out) {
    __shared__ float held[32];
    out[threadIdx.x] = held[threadIdx.x];
    held[threadIdx.x] = 1.0f;
}
extern "C" __global__ void some_never_come(int* out) {
    if (threadIdx.x) __syncthreads();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void half_a_warp(int* out) {
    out[threadIdx.x] = __shfl_sync(0xffffu, 1, 0);
}
"""
NAMES = ["to_float", "to_half", "reverse", "careless", "sum_of_lanes", "unwritten", "some_never_come", "half_a_warp"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> HostKernel:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: no kernel on the CPU")
    source = tmp_path_factory.mktemp("kernels") / "small.cu"
    source.write_text(SMALL)
    return HostKernel(source, NAMES)


def test_every_half_becomes_its_float(small):
    """NumPy's conversion is the oracle, for all 65536."""
    bits = np.arange(65536, dtype=np.uint16)
    value = np.empty(65536, np.float32)
    small.launch("to_float", (256, 1, 1), (256, 1, 1), [bits, value])
    assert np.array_equal(value, bits.view(np.float16).astype(np.float32), equal_nan=True)


def test_floats_round_to_the_nearest_even_half(small):
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[1:] + halves[:-1]) / 2  # exact in float32
    around = np.concatenate([halves, ties, np.nextafter(ties, 0), np.nextafter(ties, np.float32(1e9))])
    rng = np.random.default_rng(0)
    wild = rng.integers(0, 2**32, 65536, dtype=np.uint32).view(np.float32)
    edge = np.array([65519.996, 65520.0, np.inf, -np.inf, np.nan], np.float32)
    value = np.concatenate([around, -around, wild, edge])
    value = np.concatenate([value, np.zeros(-len(value) % 256, np.float32)])
    bits = np.empty(len(value), np.uint16)
    small.launch("to_half", (len(value) // 256, 1, 1), (256, 1, 1), [value, bits])
    with np.errstate(over="ignore"):
        assert np.array_equal(bits.view(np.float16), value.astype(np.float16), equal_nan=True)


def test_a_barrier_orders_all_threads(small):
    for seed in range(4):
        out = np.empty(96, np.int32)
        small.launch("reverse", (1, 1, 1), (96, 1, 1), [np.arange(96, dtype=np.int32), out], seed)
        assert np.array_equal(out, np.arange(96)[::-1])


def test_another_order_of_threads_shows_a_missing_barrier(small):
    results = []
    for seed in range(3):
        out = np.empty(96, np.int32)
        small.launch("careless", (1, 1, 1), (96, 1, 1), [np.arange(96, dtype=np.int32), out], seed)
        results.append(out)
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[1], results[2])


def test_shuffles_stay_inside_a_warp(small):
    out = np.empty(64, np.int32)
    small.launch("sum_of_lanes", (1, 1, 1), (64, 1, 1), [np.arange(64, dtype=np.int32), out])
    assert np.array_equal(out, np.repeat([496 + 3, 1520 + 35], 32))


def test_shared_memory_starts_as_nan_in_every_block(small):
    out = np.zeros(32, np.float32)
    small.launch("unwritten", (3, 1, 1), (32, 1, 1), [out])
    assert np.isnan(out).all()


def test_a_barrier_that_some_threads_miss_is_an_error_and_not_the_end(small):
    with pytest.raises(PsamfError, match="some_never_come stopped: some threads wait at a barrier"):
        small.launch("some_never_come", (1, 1, 1), (64, 1, 1), [np.empty(64, np.int32)])
    test_a_barrier_orders_all_threads(small)


def test_a_shuffle_of_half_a_warp_is_an_error(small):
    with pytest.raises(PsamfError, match="mask"):
        small.launch("half_a_warp", (1, 1, 1), (32, 1, 1), [np.empty(32, np.int32)])


def test_strided_arrays_are_refused(small):
    with pytest.raises(UsageError, match="C-contiguous"):
        small.launch("unwritten", (1, 1, 1), (32, 1, 1), [np.empty(64, np.float32)[::2]])


def test_no_compiler_is_said(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match=r"needs g\+\+"):
        HostKernel(SOURCE, ("x",))


@needs_compiler
def test_what_does_not_compile_is_said(tmp_path):
    (tmp_path / "broken.cu").write_text("this is no kernel")
    with pytest.raises(PsamfError, match=r"does not compile broken.cu"):
        HostKernel(tmp_path / "broken.cu", ("x",))


@needs_compiler
def test_a_cache_that_others_can_write_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = tmp_path / "psamf-edge" / "kernels"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    with pytest.raises(IntegrityError, match="Others can write"):
        HostKernel(SOURCE, ("x",))


@needs_compiler
@pytest.mark.slow
def test_each_barrier_of_the_shipped_kernel_is_needed(tmp_path):
    """Take one away, and some order of threads shows it: a NaN of unwritten shared memory, or another sum."""
    barrier, entry = "__syncthreads();", ENTRIES[np.dtype(np.float32)]
    pieces = SOURCE.read_text().split(barrier)
    assert len(pieces) == 5
    case = draw(np.random.default_rng(0), np.float32, (1, 1, 200, 50), np.array([200, 50]))
    tensors = [case.query, case.audio, case.face, case.lengths, case.weights()]

    def contexts(kernel: HostKernel, seed: int) -> np.ndarray:
        out = np.full((2, 1, 1, 64), np.nan, np.float32)
        grid, block, _ = launch_shape(1, 1, 200, 50)
        kernel.launch(entry, grid, block, [*tensors, 1, 1, 200, 50, out], seed)
        return out

    whole = contexts(HostKernel(SOURCE, (entry,)), 0)
    for cut in range(1, 5):
        source = Path(tmp_path) / f"cut{cut}.cu"
        source.write_text(barrier.join(pieces[:cut]) + barrier.join(pieces[cut:]))
        kernel = HostKernel(source, (entry,))
        assert any(not np.array_equal(contexts(kernel, seed), whole) for seed in range(4)), f"barrier {cut}"
