"""nnU-Net's rules on spacing, against the reference and against tables made by hand."""

from fractions import Fraction

import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxelmill.stages.planning.spacing_rules import new_shape, separate_axis, target_spacing

MILLIMETRES = st.one_of(
    st.floats(0.01, 20, allow_subnormal=False),
    st.sampled_from([0.5, 0.7, 0.75, 0.8, 1.0, 1.25, 2.5, 3.0, 5.0]),
)
SPACINGS = st.tuples(MILLIMETRES, MILLIMETRES, MILLIMETRES)
LENGTHS = st.integers(1, 4096)
SHAPES = st.tuples(LENGTHS, LENGTHS, LENGTHS)
QUICK = settings(max_examples=300, derandomize=True)


# new_shape


@QUICK
@given(SHAPES, SPACINGS, SPACINGS)
@example((1, 2, 3), (1.0, 1.0, 1.0), (1000.0, 1000.0, 1000.0))
def test_new_shape_equals_the_reference_and_never_vanishes(shape, spacing, target):
    expected = tuple(max(1, n) for n in reference.new_shape(shape, spacing, target))
    found = new_shape(shape, spacing, target)
    assert found == expected
    assert all(type(n) is int for n in found)


@pytest.mark.parametrize(
    ("n", "spacing", "target", "expected"),
    [
        (5, 1.0, 2.0, 2),  # 2.5 goes to the even 2
        (7, 1.0, 2.0, 4),  # 3.5 goes to the even 4
        (1, 1.0, 2.0, 1),  # 0.5 goes to 0, which is no grid
        (3, 0.5, 1.0, 2),  # 1.5 goes to the even 2
        (9, 0.5, 1.0, 4),  # 4.5 goes to the even 4, not up
        (100, 1.0, 1.0, 100),
        (3, 1.0, 1e-3, 3000),
    ],
)
def test_new_shape_rounds_half_to_even(n, spacing, target, expected):
    assert new_shape((n, n, n), (spacing,) * 3, (target,) * 3) == (expected,) * 3


def test_new_shape_divides_before_it_multiplies():
    """Cases in which the exact quotient is a tie and only nnU-Net's order of operations decides."""
    told_apart = 0
    for n in range(1, 400):
        for spacing, target in [(0.7, 1.4), (0.3, 0.2), (2.1, 0.6), (0.9, 0.2), (1.1, 0.4), (0.6, 0.4)]:
            divided_first = round(spacing / target * n)
            told_apart += divided_first != round(n * spacing / target)
            assert new_shape((n, 1, 1), (spacing, 1, 1), (target, 1, 1))[0] == max(1, divided_first)
    assert told_apart > 0


@QUICK
@given(SHAPES, SPACINGS, SPACINGS)
def test_new_shape_keeps_the_extent_to_half_a_voxel(shape, spacing, target):
    for n, s, t, m in zip(shape, spacing, target, new_shape(shape, spacing, target), strict=True):
        exact = Fraction(s) * n / Fraction(t)
        assert abs(m - exact) <= Fraction(1, 2) + Fraction(1, 10**9) or (m == 1 and exact < 1)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (((1, 2), (1.0, 1.0, 1.5), (2.0, 2.0, 2.5)), ["(1, 2)", "(1.0, 1.0, 1.5)", "(2.0, 2.0, 2.5)"]),
        (((1, 2, 3), (1.0, 1.5), (2.0, 2.0, 2.5)), ["(1, 2, 3)", "(1.0, 1.5)", "(2.0, 2.0, 2.5)"]),
        (((1, 2, 3), (1.0, 1.0, 1.5), (2.5,)), ["(1, 2, 3)", "(1.0, 1.0, 1.5)", "(2.5,)"]),
        (((1, 2, 3), (0.0, 1.0, 1.5), (2.0, 2.0, 2.5)), ["(0.0, 1.0, 1.5)", "(2.0, 2.0, 2.5)"]),
        (((1, 2, 3), (1.0, 1.0, 1.5), (2.0, -2.0, 2.5)), ["(1.0, 1.0, 1.5)", "(2.0, -2.0, 2.5)"]),
    ],
)
def test_new_shape_refuses_with_the_values(arguments, values):
    with pytest.raises(ValueError) as caught:
        new_shape(*arguments)
    assert [v for v in values if v not in str(caught.value)] == []


# target_spacing

LARGE = (20, 400, 400)  # few voxels along z
CUBE = (400, 400, 400)


@QUICK
@given(st.lists(st.tuples(SPACINGS, SHAPES), min_size=1, max_size=6))
def test_target_spacing_equals_the_reference(cases):
    spacings, shapes = zip(*cases, strict=True)
    found = target_spacing(spacings, shapes)
    assert found == tuple(reference.target_spacing(spacings, shapes))
    assert all(type(v) is float for v in found)


@settings(max_examples=200, derandomize=True)
@given(
    st.lists(st.floats(2, 9), min_size=1, max_size=7),
    st.floats(0.3, 2.5),
    st.permutations([0, 1, 2]),
)
def test_target_spacing_of_thick_slices_equals_the_reference_on_any_axis(thick, fine, axes):
    spacings = np.array([(t, fine, fine * 1.01) for t in thick])[:, axes]
    shapes = np.array([LARGE] * len(thick))[:, axes]
    assert target_spacing(spacings.tolist(), shapes.tolist()) == tuple(
        reference.target_spacing(spacings, shapes)
    )


@pytest.mark.parametrize(
    ("z", "plane", "shape", "expected"),
    [
        # Four anisotropic MR cases: the 10th percentile, linearly interpolated (5.28 + 0.3 * 0.4).
        ([5.28, 6.96, 6.46, 5.68], [0.59475] * 4, LARGE, (5.4, 0.59475)),
        # Both ratios must be above 3: the spacing is exactly 3 times the other.
        ([3.0, 3.0, 3.0], [1.0] * 3, LARGE, (3.0, 1.0)),
        ([2.0, 3.0, 9.0], [1.0] * 3, LARGE, (3.0, 1.0)),
        # A hair above 3: the 10th percentile.
        ([2.0, 3.01, 9.0], [1.0] * 3, LARGE, (2.202, 1.0)),
        # The voxel count along z is exactly a third: not fewer than that.
        ([2.0, 5.0, 9.0], [1.0] * 3, (100, 300, 400), (5.0, 1.0)),
        ([2.0, 5.0, 9.0], [1.0] * 3, (99, 300, 400), (2.6, 1.0)),
        ([2.0, 5.0, 9.0], [1.0] * 3, CUBE, (5.0, 1.0)),
        # The 10th percentile falls below the plane's spacing: a hair above that.
        ([0.5, 5.0, 5.0, 5.0], [1.5] * 4, (5, 400, 400), (1.85, 1.5)),
        ([0.5, 0.5, 5.0, 5.0, 5.0], [1.5] * 5, (5, 400, 400), (1.5 + 1e-5, 1.5)),
        # It is equal to the plane's spacing: left as it is.
        ([1.5, 1.5, 5.0, 5.0, 5.0], [1.5] * 5, (5, 400, 400), (1.5, 1.5)),
        # An even number of cases: the median lies between two.
        ([1.0, 2.0], [1.0, 2.0], CUBE, (1.5, 1.5)),
        ([2.5], [0.7], CUBE, (2.5, 0.7)),
    ],
)
def test_target_spacing_by_hand(z, plane, shape, expected):
    spacings = [(a, b, b) for a, b in zip(z, plane, strict=True)]
    found = target_spacing(spacings, [shape] * len(z))
    assert found == pytest.approx((expected[0], expected[1], expected[1]), rel=1e-12)


def test_target_spacing_needs_both_axes_above_three_times_the_larger_of_the_others():
    assert target_spacing([(1.0, 2.0, 7.0), (1.0, 2.0, 5.0)], [(400, 400, 20)] * 2) == (1.0, 2.0, 6.0)
    assert target_spacing([(1.0, 2.0, 9.0), (1.0, 2.0, 5.0)], [(400, 400, 20)] * 2) == (1.0, 2.0, 5.4)
    # The voxel count is held against the smaller of the others.
    assert target_spacing([(1.0, 2.0, 9.0), (1.0, 2.0, 5.0)], [(60, 400, 20)] * 2) == (1.0, 2.0, 7.0)


@pytest.mark.parametrize(
    ("spacings", "shapes"), [([], []), ([(1, 1, 1)], []), ([(1, 1, 1)], [(2, 2, 2)] * 2)]
)
def test_target_spacing_refuses_with_both_lengths(spacings, shapes):
    with pytest.raises(ValueError, match=f"{len(spacings)} spacings and {len(shapes)} shapes"):
        target_spacing(spacings, shapes)


# separate_axis


@QUICK
@given(SPACINGS, SPACINGS)
def test_separate_axis_equals_the_reference(current, target):
    assert separate_axis(current, target) == reference.separate_axis(current, target)


@pytest.mark.parametrize(
    ("current", "target", "expected"),
    [
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 5.0), (1.0, 1.0, 1.0), 2),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),  # exactly 3 is not anisotropic
        ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), 1),  # the target decides where the source is isotropic
        ((5.0, 1.0, 1.0), (1.0, 5.0, 1.0), 0),  # the source goes first
        ((5.0, 5.0, 1.0), (1.0, 1.0, 1.0), None),  # the largest is shared
        ((5.0, 5.0, 1.0), (5.0, 1.0, 1.0), None),  # ... and the target is not asked then
        ((1.0, 1.0, 1.0), (5.0, 1.0, 5.0), None),
        ((5.0, 4.0, 1.0), (1.0, 1.0, 1.0), 0),  # the largest against the smallest, not the middle one
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
    ],
)
def test_separate_axis_by_hand(current, target, expected):
    assert separate_axis(current, target) == expected
