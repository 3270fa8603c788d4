"""The non-zero box and filled holes against SciPy and plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from voxelmill.kernels.nonzero_mask import fill_holes, nonzero_box, slice_counts

quick = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32)


def tortuous(seed, size=32, width=0.6):
    """Sheets that wind through the volume: |smooth noise| below a threshold."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size,) * 3), 1.5)
    return np.abs(noise) < width * noise.std()


@quick
@given(st.lists(st.integers(0, 12), min_size=1, max_size=3), st.floats(0, 1), seeds)
def test_fill_holes_equals_scipy_on_noise(shape, density, seed):
    mask = np.random.default_rng(seed).random(shape) < density
    before = mask.copy()
    filled = fill_holes(mask)
    np.testing.assert_array_equal(filled, ndimage.binary_fill_holes(mask))
    np.testing.assert_array_equal(mask, before)
    assert filled.dtype == np.bool_


@pytest.mark.parametrize("density", [0.3, 0.5, 0.6, 0.69, 0.75, 0.9])
def test_fill_holes_of_larger_noise(density):
    mask = np.random.default_rng(7).random((48, 50, 70)) < density
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize("width", [0.3, 0.6, 1.0, 1.5])
def test_fill_holes_of_tortuous_masks(width):
    mask = tortuous(3, width=width)
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def shell(inside=0):
    mask = np.zeros((7, 7, 7), np.uint8)
    mask[1:6, 1:6, 1:6] = 1
    mask[2:5, 2:5, 2:5] = inside
    return mask


def test_a_hole_is_filled():
    assert fill_holes(shell()).sum() == 125


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, -1])
def test_a_hole_open_to_the_border_stays(axis, side):
    mask = np.moveaxis(shell()[1:6, 1:6, 1:6], 0, axis).copy()
    centre = [2, 2, 2]
    centre[axis] = side
    mask[tuple(centre)] = 0
    np.testing.assert_array_equal(fill_holes(mask), mask != 0)


def test_a_diagonal_gap_does_not_open_a_hole():
    mask = shell(inside=1)
    mask[3, 3, 3] = 0
    mask[2, 2, 3] = mask[1, 1, 3] = 0  # joined by edges only
    assert fill_holes(mask)[3, 3, 3]
    assert fill_holes(mask)[2, 2, 3]


def test_a_hole_within_a_hole():
    mask = np.ones((11, 11, 11), bool)
    mask[1:10, 1:10, 1:10] = False
    mask[3:8, 3:8, 3:8] = True
    mask[5, 5, 5] = False
    assert fill_holes(mask).all()


def test_a_spiral_joined_late():
    mask = np.ones((1, 9, 9), bool)[0]
    mask[1, 1:8] = mask[1:8, 7] = mask[7, 1:8] = mask[3:8, 1] = mask[3, 1:6] = mask[3:6, 5] = False
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    mask[0, 1] = False
    np.testing.assert_array_equal(fill_holes(mask), mask)


@pytest.mark.parametrize(
    "view", [np.asfortranarray, lambda m: m[::-1, :, ::2], lambda m: m.astype(np.float32)]
)
def test_fill_holes_of_any_layout(view):
    mask = view(tortuous(5))
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 1)])
def test_fill_holes_needs_one_to_three_axes(shape):
    with pytest.raises(ValueError, match="1 to 3"):
        fill_holes(np.ones(shape, bool))


@quick
@given(st.lists(st.integers(1, 8), min_size=3, max_size=4), st.floats(0, 0.2), seeds)
def test_nonzero_box(shape, density, seed):
    array = (np.random.default_rng(seed).random(shape) < density) * np.float32(-0.5)
    union = array.reshape(-1, *shape[-3:]).any(0)
    box = nonzero_box(array)
    hits = np.argwhere(union)
    lower, upper = (hits.min(0), hits.max(0) + 1) if len(hits) else ((0, 0, 0), union.shape)
    assert box == tuple(zip(map(int, lower), map(int, upper), strict=True))


def test_nan_is_not_zero():
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 2, 3] = np.nan
    assert nonzero_box(array) == ((1, 2), (2, 3), (3, 4))


def test_nonzero_box_needs_three_axes():
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        nonzero_box(np.ones((2, 2)))


@quick
@given(seeds, st.floats(0, 1))
def test_slice_counts(seed, density):
    mask = np.random.default_rng(seed).random((9, 10, 11)) < density
    for axis, counts in enumerate(slice_counts(mask)):
        np.testing.assert_array_equal(counts, mask.sum(tuple({0, 1, 2} - {axis})))


@pytest.mark.gpu
def test_cupy_in_cupy_out():
    cupy = pytest.importorskip("cupy")
    mask = cupy.asarray(tortuous(3))
    np.testing.assert_array_equal(cupy.asnumpy(fill_holes(mask)), fill_holes(mask.get()))
    assert nonzero_box(mask) == nonzero_box(mask.get())
