"""The shipped kernel's text on the CPU against the float64 oracle. What that cannot show: psamf_edge/kernels/host."""

import shutil

import numpy as np
import pytest

from psamf_edge.errors import UsageError
from psamf_edge.kernels.cross_modal_attention import host
from psamf_edge.kernels.cross_modal_attention.validation import LIMIT, Case, draw, error

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: no kernel on the CPU")

PRECISIONS = [np.float32, np.float16]
# none, one, around a half-warp (16), a warp, one round of the block (128), two and four of them, 500, 2048 and its edge
EDGES = [0, 1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 129, 256, 257, 500, 511, 513, 2047, 2048]


def run(case: Case, seed: int = 0) -> np.ndarray:
    return host.run(case.query, case.audio, case.face, case.lengths, case.weights(), seed=seed)


def check(case: Case) -> np.ndarray:
    contexts, expected = run(case), case.expected()
    allowed = case.allowed_error(expected)
    assert error(contexts, expected) <= allowed
    return contexts


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_every_length_with_poisoned_padding(dtype):
    """Each sample has another length, and NaN from there to 2048 and so before the next sample's first step."""
    lengths = np.stack([EDGES, EDGES[::-1]], axis=1)[:, None]  # (B, 1, 2)
    case = draw(np.random.default_rng(1), dtype, (len(EDGES), 1, 2048, 2048), lengths)
    contexts, expected = check(case), case.expected()
    allowed = case.allowed_error(expected)
    for b in range(len(EDGES)):  # no length may hide behind the others
        assert error(contexts[:, b], expected[:, b]) <= LIMIT * allowed, f"lengths {lengths[b, 0]}"


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 4, 125, 100), (3, 2, 40, 7), (2, 5, 0, 3), (1, 1, 0, 0)])
def test_batches_and_subsets(dtype, sizes):
    check(draw(np.random.default_rng(sum(sizes)), dtype, sizes))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_all_missing_is_a_function_of_the_query_alone(dtype):
    case = draw(np.random.default_rng(3), dtype, (2, 2, 9, 9), lengths=np.zeros(2))
    assert np.isnan(case.audio).all()
    assert np.isnan(case.face).all()
    check(case)


@pytest.mark.parametrize(("dtype", "sharpness"), [(np.float32, 100.0), (np.float16, 20.0)])
def test_large_logits(dtype, sharpness):
    """Logits of some hundreds: without its running maximum, exp overflows. Half holds no more than 65504."""
    check(draw(np.random.default_rng(4), dtype, (4, 1, 300, 77), sharpness=sharpness))


def test_a_maximum_that_comes_last_or_first():
    for order in (1, -1):
        case = draw(np.random.default_rng(5), np.float32, (1, 1, 400, 400), np.array([400, 400]), sharpness=30.0)
        rising = np.linspace(-3, 3, 400, dtype=np.float32)[::order]  # of every dimension
        case.audio, case.face = case.audio * rising[:, None], case.face * rising[:, None]
        check(case)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_tiny_variance(dtype):
    """The first norm divides by the square root of eps: a variance from squares would be lost in rounding."""
    rng = np.random.default_rng(6)
    case = draw(rng, dtype, (8, 1, 5, 5))
    case.query = (5.0 + 4e-3 * rng.integers(-1, 2, (8, 1, 64))).astype(dtype)  # a step of half's at 5
    for block in case.blocks:
        for name in ("attention.out.weight", "attention.out.bias", "attention.value.bias"):
            block[name] = np.zeros_like(block[name])
    check(case)


def test_huge_values_stay_finite():
    case = draw(np.random.default_rng(7), np.float32, (1, 1, 30, 30), np.array([30, 30]))
    case.query, case.audio, case.face = case.query * 1e4, case.audio * -1e4, case.face * 1e4
    assert np.isfinite(check(case)).all()


def test_equal_steps_average_to_themselves():
    case = draw(np.random.default_rng(8), np.float32, (1, 2, 50, 50), np.array([[[50, 50], [1, 1]]]))
    case.audio[:], case.face[:] = case.audio[:, :1], case.face[:, :1]
    case.query[:, 1] = case.query[:, 0]
    contexts = check(case)
    assert np.allclose(contexts[:, :, 0], contexts[:, :, 1], atol=1e-5)  # float32 sums of 50 equal terms


def test_a_nan_inside_the_valid_steps_is_not_hidden():
    case = draw(np.random.default_rng(9), np.float32, (2, 1, 20, 20), np.array([20, 20]))
    case.audio[1, 13, 5] = np.nan
    contexts = run(case)
    assert np.isnan(contexts[0, 1]).all()
    assert np.isfinite(contexts[0, 0]).all()
    assert np.isfinite(contexts[1]).all()


def test_lengths_beyond_the_memory_read_no_further():
    case = draw(np.random.default_rng(10), np.float32, (1, 1, 12, 12), np.array([12, 0]))
    expected = run(case)
    case.lengths[:] = [4000, -3]
    assert np.array_equal(run(case), expected)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_order_of_threads_changes_no_bit(dtype):
    case = draw(np.random.default_rng(11), dtype, (1, 2, 200, 33))
    first = run(case)
    for seed in (1, 2, 3):
        assert np.array_equal(run(case, seed), first)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("query", np.zeros((1, 1, 32), np.float32)),
        ("audio", np.zeros((2, 5, 64), np.float32)),
        ("face", np.zeros((1, 5, 64), np.float16)),
        ("lengths", np.zeros((1, 1, 2), np.int64)),
        ("weights", np.zeros((2, 49919), np.float32)),
    ],
)
def test_wrong_tensors_are_refused(name, wrong):
    case = draw(np.random.default_rng(12), np.float32, (1, 1, 5, 5))
    tensors = {
        "query": case.query,
        "audio": case.audio,
        "face": case.face,
        "lengths": case.lengths,
        "weights": case.weights(),
    }
    with pytest.raises(UsageError, match=f"^{name} should be"):
        host.run(**{**tensors, name: wrong})


def test_float64_has_no_kernel():
    case = draw(np.random.default_rng(13), np.float32, (1, 1, 5, 5))
    tensors = (case.query, case.audio, case.face, case.weights())
    query, audio, face, weights = (x.astype(np.float64) for x in tensors)
    with pytest.raises(UsageError, match="float32 or float16, not in float64"):
        host.run(query, audio, face, case.lengths, weights)
