"""Normalisation, bit for bit against nnU-Net's arithmetic written out in NumPy."""

import numpy as np
import pytest

from voxelmill.basics.errors import ValueRuleError
from voxelmill.kernels import clip_and_normalize
from voxelmill.kernels.clip_and_normalize import Normalization, scheme_of

EPS = 1e-8
RNG = np.random.default_rng(5)
BLOCK = (RNG.standard_normal((7, 9, 11)) * 400 + 30).astype(np.float32)
CT = {"mean": 31.25347, "std": 170.113, "percentile_00_5": -312.7, "percentile_99_5": 501.3}


def test_ct():
    expected = BLOCK.copy()
    np.clip(expected, CT["percentile_00_5"], CT["percentile_99_5"], out=expected)
    expected -= CT["mean"]
    expected /= max(CT["std"], EPS)
    block = BLOCK.copy()
    assert clip_and_normalize.ct(**CT).apply(block) is block
    np.testing.assert_array_equal(block, expected)


def test_zscore_of_the_box():
    mean, std = np.float32(BLOCK.mean(dtype=float)), np.float32(BLOCK.std(dtype=float))
    expected = BLOCK.copy()
    expected -= mean
    expected /= max(std, EPS)
    values = BLOCK.astype(float)
    scheme = clip_and_normalize.zscore(BLOCK.size, values.sum(), (values**2).sum())
    np.testing.assert_array_equal(scheme.apply(BLOCK.copy()), expected)


def test_zscore_of_the_mask():
    mask = RNG.random(BLOCK.shape) < 0.6
    inside = BLOCK[mask].astype(float)
    mean, std = np.float32(inside.mean()), np.float32(inside.std())
    expected = BLOCK.copy()
    expected[mask] = (expected[mask] - mean) / (max(std, EPS))
    scheme = clip_and_normalize.zscore(int(mask.sum()), inside.sum(), (inside**2).sum())
    block = BLOCK.copy()
    assert scheme.apply(block, mask) is block
    np.testing.assert_array_equal(block, expected)


def test_rescale_to_01():
    expected = BLOCK.copy()
    expected -= expected.min()
    expected /= np.clip(expected.max(), a_min=EPS, a_max=None)
    scheme = clip_and_normalize.rescale_to_01(float(BLOCK.min()), float(BLOCK.max()))
    np.testing.assert_array_equal(scheme.apply(BLOCK.copy()), expected)


def test_rgb_to_01():
    image = RNG.integers(0, 256, (3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        clip_and_normalize.rgb_to_01(0, 255).apply(image.copy()), image / np.float32(255)
    )


@pytest.mark.parametrize("extremes", [(-1, 255), (0, 255.5)])
def test_rgb_needs_bytes(extremes):
    with pytest.raises(ValueRuleError, match="0 to 255"):
        clip_and_normalize.rgb_to_01(*extremes)


def test_no_normalization():
    np.testing.assert_array_equal(Normalization().apply(BLOCK.copy()), BLOCK)


@pytest.mark.parametrize(
    "scheme", [clip_and_normalize.zscore(8, 40.0, 200.0), clip_and_normalize.rescale_to_01(5.0, 5.0)]
)
def test_a_constant_becomes_zero(scheme):
    assert scheme.scale == EPS
    assert not scheme.apply(np.full((2, 2, 2), 5, np.float32)).any()


def test_no_voxels():
    assert clip_and_normalize.zscore(0, 0.0, 0.0).shift == 0


SCHEMES = [
    Normalization(),
    clip_and_normalize.ct(**CT),
    clip_and_normalize.zscore(10, 37.7, 4811.3),
    clip_and_normalize.rescale_to_01(-1.7, 300.1),
    clip_and_normalize.rgb_to_01(0, 255),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.scheme)
def test_the_range_is_that_of_the_block(scheme):
    low, high = scheme.apply_range(BLOCK.min(), BLOCK.max())
    block = scheme.apply(BLOCK.copy())
    assert (low, high) == (block.min(), block.max())
    low, high = scheme.apply_range(BLOCK.min((1, 2)), BLOCK.max((1, 2)))
    np.testing.assert_array_equal(low, block.min((1, 2)))
    np.testing.assert_array_equal(high, block.max((1, 2)))
    assert low.dtype == high.dtype == np.float32


def test_the_range_with_zeros_outside_the_mask():
    scheme = clip_and_normalize.zscore(4, 40.0, 408.0)
    low, high = scheme.apply_range([12, 12, np.inf], [14, 14, -np.inf], outside=[False, True, True])
    first = scheme.apply(np.array([12, 14], np.float32))
    np.testing.assert_array_equal(low, [first[0], 0, 0])
    np.testing.assert_array_equal(high, [first[1], first[1], 0])


def test_only_float32():
    with pytest.raises(ValueError, match="int16"):
        Normalization().apply(np.zeros((1, 1, 1), np.int16))


@pytest.mark.parametrize(
    ("channel", "scheme"),
    [
        ("CT", "CTNormalization"),
        ("ct", "CTNormalization"),
        ("noNorm", "NoNormalization"),
        ("ZScore", "ZScoreNormalization"),
        ("rescale_to_0_1", "RescaleTo01Normalization"),
        ("RGB_to_0_1", "RGBTo01Normalization"),
        ("T1", "ZScoreNormalization"),
    ],
)
def test_schemes_come_from_channel_names(channel, scheme):
    assert scheme_of(channel) == scheme


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.scheme)
def test_cupy_equals_numpy(scheme):
    cupy = pytest.importorskip("cupy")
    mask = BLOCK > 0
    for inside in (None, mask):
        found = scheme.apply(cupy.asarray(BLOCK), None if inside is None else cupy.asarray(inside))
        np.testing.assert_allclose(found.get(), scheme.apply(BLOCK.copy(), inside), rtol=1e-6)
