"""The whole voice description: shape, edges, gain, golden values."""

from pathlib import Path

import numpy as np
import pytest
from audio_signals import chirp, noise, vowel

from psamf_edge.audio.features import AUDIO_FEATURES, SAMPLE_RATE, extract, extract_counted
from psamf_edge.errors import UsageError

GOLDEN = Path(__file__).parent / "golden" / "audio_features.npz"
COLUMN = {feature.name: i for i, feature in enumerate(AUDIO_FEATURES)}


def golden_signal() -> np.ndarray:
    """A vowel with falling pitch, a chirp, noise and silence: every branch of the features, (N,) at 16 kHz."""
    parts = [vowel(180.0, 0.4, glide=0.7), chirp(100.0, 7000.0, 0.2), 0.1 * noise(0.2), np.zeros(SAMPLE_RATE // 10)]
    return np.concatenate(parts).astype(np.float32)


def test_63_named_features():
    assert len(AUDIO_FEATURES) == len(COLUMN) == 63
    assert all(feature.unit and feature.description for feature in AUDIO_FEATURES)


def test_golden():
    values = extract(golden_signal())
    expected = np.load(GOLDEN, allow_pickle=False)["values"]
    assert values.shape == expected.shape
    # NumPy 1 transforms in double, NumPy 2 in single precision: rounding of 1e-7 grows by the logarithm and by the
    # differences over 10 ms, to 4e-5 of a feature's spread between the two (measured)
    spread = expected.std(axis=0)
    assert np.all(np.abs(values - expected) <= 1e-3 * spread + 1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (1, 1), (159, 1), (160, 1), (161, 2), (960_000, 6000)])
def test_frame_count_and_silence(samples, frames):
    values = extract(np.zeros(samples, np.float32))
    assert values.shape == (frames, 63)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.all(values[:, COLUMN["f0"]] == 0)
    assert np.all(values[:, COLUMN["level"]] == pytest.approx(-100, abs=1e-4))  # single precision


@pytest.mark.parametrize("samples", [1, 2, 159, 160, 161, 399, 641])
def test_short_sounds_are_finite(samples):
    assert np.isfinite(extract(noise(1.0)[:samples])).all()


def test_bad_samples_count_as_silence():
    clean = vowel(150.0, 0.3)
    clean[1000:1004] = 0
    dirty = clean.copy()
    dirty[1000:1004] = np.nan, np.inf, -np.inf, np.nan
    found = extract_counted(dirty)
    assert found.bad_samples == 4
    np.testing.assert_array_equal(found.values, extract(clean))


def test_only_bad_samples():
    found = extract_counted(np.full(500, np.nan, np.float32))
    assert found.bad_samples == 500
    np.testing.assert_array_equal(found.values, extract(np.zeros(500, np.float32)))


def test_int16_is_scaled():
    integers = np.round(vowel(150.0, 0.3) * 32767).astype(np.int16)
    np.testing.assert_array_equal(extract(integers), extract(integers / np.float32(32768)))


def test_clipped_and_huge_are_finite():
    loud = 1e30 * vowel(150.0, 0.3)
    assert np.isfinite(extract(loud)).all()
    np.testing.assert_array_equal(extract(loud.astype(np.float64)), extract(np.clip(loud, -1, 1)))


def test_offset_does_not_matter():
    sound = 0.5 * vowel(150.0, 0.3)
    np.testing.assert_allclose(
        extract(sound + np.float32(0.25)), extract(sound), atol=0.05
    )  # slopes in dB/s round most


@pytest.mark.parametrize("gain", [0.5, 0.03])
def test_only_the_level_follows_the_gain(gain):
    sound = vowel(150.0, 0.5) + 0.01 * noise(0.5)
    loud, quiet = extract(sound), extract((gain * sound).astype(np.float32))
    others = np.arange(63) != COLUMN["level"]
    scale = np.abs(loud).max(axis=0) + 1e-3
    # single precision through a logarithm
    assert np.all(np.abs(loud - quiet)[:, others] <= 1e-3 * scale[others])
    np.testing.assert_allclose(quiet[:, COLUMN["level"]] - loud[:, COLUMN["level"]], 20 * np.log10(gain), atol=1e-3)


def test_frames_are_centred_on_their_hop():
    click = np.zeros(3200, np.float32)
    click[10 * 160 + 80] = 0.9  # the middle of hop 10
    level = extract(click)[:, COLUMN["level"]]
    assert level.argmax() == 10
    np.testing.assert_allclose(level[9], level[11], atol=0.2)  # the mean that is taken away is all that differs


@pytest.mark.parametrize("samples", [np.zeros((2, 100), np.float32), np.zeros(100, np.int32), np.zeros(10, bool)])
def test_wrong_input_is_refused(samples):
    with pytest.raises(UsageError, match="give"):
        extract(samples)


def test_measures_mean_what_they_say():
    hiss, tone = extract(0.1 * noise(1.0)), extract(0.1 * chirp(1000.0, 1000.0, 1.0))
    inner = slice(3, -3)
    assert hiss[inner, COLUMN["spectral_tilt"]].mean() == pytest.approx(0, abs=0.5)  # white: flat; 95 frames
    assert hiss[inner, COLUMN["spectral_centroid"]].mean() == pytest.approx(4000, rel=0.02)
    assert hiss[inner, COLUMN["zero_crossing_rate"]].mean() == pytest.approx(0.5, abs=0.01)
    assert hiss[inner, COLUMN["level"]].mean() == pytest.approx(-20, abs=0.2)
    assert tone[inner, COLUMN["spectral_centroid"]] == pytest.approx(
        1000, rel=0.01
    )  # the window's leakage is symmetric
    assert tone[inner, COLUMN["zero_crossing_rate"]] == pytest.approx(0.125, abs=0.005)  # two changes in 16 samples
    assert tone[inner, COLUMN["level"]] == pytest.approx(-23.01, abs=0.01)  # a sine has half its peak's power
    assert tone[inner, COLUMN["spectral_flux"]].max() < 0.01  # 10 ms hold whole periods
