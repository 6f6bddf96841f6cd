"""The expression net at run time: the shipped file through ExpressionNet."""

from pathlib import Path

import numpy as np
import pytest

from psamf_edge.errors import InputError, IntegrityError
from psamf_edge.face.crop import CROP_PIXELS
from psamf_edge.face.expression import BATCH, EXPRESSION_FEATURES, EXPRESSION_SIZE, EXPRESSIONS, ExpressionNet

SHIPPED = Path(__file__).parents[1] / "compile" / "weights" / "default" / "expression.onnx"
CLASSES = len(EXPRESSIONS)
# Other batch sizes take other kernels, which sum up to 1008 float32 products in another order: 1e-6 was seen.
REORDERING = 1e-5


@pytest.fixture(scope="module")
def net():
    return ExpressionNet(SHIPPED.read_bytes())


def crops(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, CROP_PIXELS, CROP_PIXELS), dtype=np.uint8)


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1])
def test_every_count_of_crops(net, count):
    vectors = net.embed(crops(count))
    assert vectors.shape == (count, EXPRESSION_SIZE)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()


def test_probabilities_then_a_normalised_embedding(net):
    vectors = net.embed(crops(40)).astype(np.float64)
    np.testing.assert_allclose(vectors[:, :CLASSES].sum(axis=1), 1, atol=1e-6)  # a float32 softmax of 7
    assert vectors[:, :CLASSES].min() >= 0
    embedding = vectors[:, CLASSES:]
    np.testing.assert_allclose(embedding.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose((embedding**2).mean(axis=1), 1, atol=1e-3)  # LayerNorm's eps takes a little
    assert np.abs(embedding).max() <= np.sqrt(31)


def test_a_crop_does_not_depend_on_its_neighbours(net):
    faces = crops(2 * BATCH + 3)
    together = net.embed(faces)
    alone = np.concatenate([net.embed(face[None]) for face in faces])
    np.testing.assert_allclose(together, alone, atol=REORDERING)


@pytest.mark.parametrize("grey", [0, 127, 255])
def test_a_flat_crop_is_finite(net, grey):
    assert np.isfinite(net.embed(np.full((1, CROP_PIXELS, CROP_PIXELS), grey, np.uint8))).all()


def test_exposure_does_not_matter(net):
    dark = crops(5) // 4
    bright = dark * 3 + 20  # the same picture, other brightness and contrast
    np.testing.assert_allclose(net.embed(bright), net.embed(dark), atol=0.05)  # what FLAT_CONTRAST leaves over


@pytest.mark.parametrize(
    "wrong",
    [
        crops(2).astype(np.float32),
        crops(2).astype(np.int8),
        crops(1)[0],
        crops(2)[:, :47],
        np.zeros((1, 48, 48, 3), np.uint8),
        np.zeros((0, 47, 48), np.uint8),
    ],
    ids=["float", "int8", "no batch", "47 rows", "colour", "empty, 47 rows"],
)
def test_wrong_crops_are_refused(net, wrong):
    with pytest.raises(InputError, match=r"must be uint8 \(N, 48, 48\)"):
        net.embed(wrong)


@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_a_truncated_model_is_refused(kept):
    with pytest.raises(IntegrityError, match="expression"):
        ExpressionNet(SHIPPED.read_bytes()[:kept])


def test_junk_is_refused():
    with pytest.raises(IntegrityError, match="expression"):
        ExpressionNet(b"junk" * 100)


def test_each_dimension_is_documented_once():
    names = [feature.name for feature in EXPRESSION_FEATURES]
    assert len(names) == len(set(names)) == EXPRESSION_SIZE == 39
    assert [name.removeprefix("expression_") for name in names[:CLASSES]] == list(EXPRESSIONS)
    assert all(feature.description and feature.unit == "1" for feature in EXPRESSION_FEATURES)


def test_the_file_fits_its_budget():
    assert SHIPPED.stat().st_size < 1_500_000
