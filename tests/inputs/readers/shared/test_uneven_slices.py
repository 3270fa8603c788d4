"""Even grids from slices at uneven distances: which two slices each lies between, and its values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxelmill.inputs.readers.shared.uneven_slices import Between, blend, even_out, fill_gaps, fit_even

STEPS = st.lists(st.floats(0.1, 7), min_size=1, max_size=20)


def planes(places, values, is_label=False):
    """The slices of a grid, of one voxel each."""
    arrays = [np.array([[v]]) for v in values]
    last = len(arrays) - 1
    made = [blend(arrays[p.first], arrays[min(p.first + 1, last)], p.weight, is_label) for p in places]
    return [plane.item() for plane in made]


def filled(positions):
    places, even = fill_gaps(positions)
    assert even.is_close
    return places


class TestFit:
    """Even grids: from the first slice to the last, or the closest one."""

    @given(st.integers(2, 400), st.floats(0.02, 8), st.floats(-500, 500), st.randoms())
    def test_what_lies_within_a_tenth_of_a_voxel_of_a_grid_is_close(self, count, step, first, random):
        """A grid that is as close is found, whichever slices are off."""
        off = [random.uniform(-0.0999, 0.0999) for _ in range(count)]
        positions = [first + step * (n + o) for n, o in enumerate(off)]
        found = fit_even(positions, range(count))
        assert found.is_close
        np.testing.assert_allclose(
            found.first + found.step * (np.arange(count) + found.off), positions, rtol=0, atol=1e-9
        )

    @pytest.mark.parametrize("positions", [[0, 0.7, 1.4], [-30.0, -27.5, -25.0, -22.5], [3, 3.01, 3.02]])
    def test_of_regular_slices_it_goes_from_the_first_to_the_last(self, positions):
        found = fit_even(positions, range(len(positions)))
        assert (found.first, found.step) == (
            positions[0],
            (positions[-1] - positions[0]) / (len(positions) - 1),
        )

    def test_the_closest_has_the_smallest_deviation(self):
        """The last of five slices is off: two others and it are equally far off then."""
        found = fit_even([0, 1, 2, 3, 4.15], range(5))
        assert (found.step, found.first) == pytest.approx((1.0375, -0.05625))
        assert np.abs(found.off * found.step).max() == pytest.approx(0.05625)

    @pytest.mark.parametrize("count", [3, 10, 100, 3000])
    @pytest.mark.parametrize("where", ["first", "middle", "last"])
    def test_a_missing_slice_is_far_off_however_long_the_series(self, count, where):
        at = {"first": 1, "middle": count // 2, "last": count - 1}[where]
        positions = [float(n + (n >= at)) for n in range(count)]
        assert np.abs(fit_even(positions, range(count)).off).max() >= 0.16
        places, even = fill_gaps(positions)
        assert (len(places), even.step) == (count + 1, 1)


def test_one_slice_put_in_is_the_mean_of_its_neighbours():
    places = filled([0, 1, 3, 4])
    assert places == [Between(0), Between(1), Between(1, 0.5), Between(2), Between(3)]
    assert planes(places, [10.0, 20.0, 40.0, -5.0]) == [10, 20, 30, 40, -5]


def test_integers_are_rounded_to_the_nearest():
    places = filled([0, 1, 4])
    assert [p.weight for p in places] == pytest.approx([0, 0, 1 / 3, 2 / 3, 0])
    assert planes(places, [0, 10, 20]) == [0, 10, 13, 17, 20]


def test_a_label_is_the_nearer_plane_and_the_first_in_the_middle():
    assert planes(filled([0, 1, 4]), [0, 1, 7], is_label=True) == [0, 1, 1, 7, 7]
    assert planes(filled([0, 1, 3]), [0, 1, 7], is_label=True) == [0, 1, 1, 7]


@pytest.mark.parametrize(
    "positions",
    [
        [0, 1, 2.5, 3.5],  # one and a half steps
        [0, 1, 2, 3, 5.4, 6.4, 7.4],  # two steps and four tenths
        [0, 1, 2, 3],  # nothing is missing
        [0, 1, 2, 1000],  # most would be made up
    ],
)
def test_other_gaps_are_not_filled(positions):
    assert fill_gaps(positions) is None


def test_gaps_of_rounded_positions_are_filled():
    positions = [round(2 / 3 * n, 2) for n in range(40) if n not in (7, *range(20, 33))]
    places = filled(positions)
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
