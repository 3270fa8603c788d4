"""Even grids from slices at uneven distances: which two slices each lies between, and its values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelmill.readers.uneven import Between, blend, even_out, fill_gaps

STEPS = st.lists(st.floats(0.1, 7), min_size=1, max_size=20)


def planes(places, values, is_label=False):
    """The slices of a grid, of one voxel each."""
    arrays = [np.array([[v]]) for v in values]
    last = len(arrays) - 1
    made = [blend(arrays[p.first], arrays[min(p.first + 1, last)], p.weight, is_label) for p in places]
    return [plane.item() for plane in made]


def test_one_slice_put_in_is_the_mean_of_its_neighbours():
    places = fill_gaps([0, 1, 3, 4], 0.02)
    assert places == [Between(0), Between(1), Between(1, 0.5), Between(2), Between(3)]
    assert planes(places, [10.0, 20.0, 40.0, -5.0]) == [10, 20, 30, 40, -5]


def test_integers_are_rounded_to_the_nearest():
    places = fill_gaps([0, 1, 4], 0.02)
    assert [p.weight for p in places] == pytest.approx([0, 0, 1 / 3, 2 / 3, 0])
    assert planes(places, [0, 10, 20]) == [0, 10, 13, 17, 20]


def test_a_label_is_the_nearer_plane_and_the_first_in_the_middle():
    assert planes(fill_gaps([0, 1, 4], 0.02), [0, 1, 7], is_label=True) == [0, 1, 1, 7, 7]
    assert planes(fill_gaps([0, 1, 3], 0.02), [0, 1, 7], is_label=True) == [0, 1, 1, 7]


@pytest.mark.parametrize(
    "positions",
    [
        [0, 1, 2.5, 3.5],  # one and a half steps
        [0, 1, 3.1],  # two steps and a tenth
        [0, 1, 2, 3],  # nothing is missing
        [0, 1, 2, 1000],  # most would be made up
    ],
)
def test_other_gaps_are_not_filled(positions):
    assert fill_gaps(positions, 0.02) is None


def test_gaps_of_rounded_positions_are_filled():
    positions = [round(2 / 3 * n, 2) for n in range(40) if n not in (7, *range(20, 33))]
    places = fill_gaps(positions, 0.021)
    assert len(places) == 40
    assert sum(p.weight > 0 for p in places) == 14


@given(STEPS)
def test_a_volume_that_is_linear_along_z_comes_back(steps):
    positions = [10.0, *(10 + np.cumsum(steps))]
    places = even_out(positions)
    if places is None:
        return
    step = (positions[-1] - positions[0]) / (len(places) - 1)
    expected = [3 * (10 + step * j) - 1 for j in range(len(places))]
    found = planes(places, [3 * p - 1 for p in positions])
    # A slice that all but coincides keeps its values: 0.001 steps are 0.003 steps' worth of value.
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0.0031 * step)
    exact = [p.weight > 0 for p in places]
    np.testing.assert_allclose(np.array(found)[exact], np.array(expected)[exact], rtol=1e-9)


@given(STEPS)
def test_even_steps_go_from_the_first_slice_to_the_last(steps):
    positions = [0.0, *np.cumsum(steps)]
    places = even_out(positions)
    if places is not None:
        assert (places[0], places[-1]) == (Between(0), Between(len(steps)))
        assert all(0 <= p.weight < 1 for p in places)
        order = [p.first + p.weight for p in places]
        assert order == sorted(order)


def test_slices_that_coincide_stay_as_they_are():
    assert even_out([0, 1, 2, 4]) == [Between(0), Between(1), Between(2), Between(2, 0.5), Between(3)]


def test_a_slice_far_off_is_no_reason_to_make_thousands():
    assert even_out([0, 1, 2, 1000]) is None
