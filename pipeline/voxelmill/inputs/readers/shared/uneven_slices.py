"""Even grids fitted to slice positions, and interpolation of their slices from uneven ones.

In: positions in millimetres, ascending. Out: an `Even` grid, a `Between` for each of its slices, and
interpolated planes. It knows no format. With f the positions in units of the new step, slice j between f[i]
and f[i + 1] is

    (1 - w) * plane[i] + w * plane[i + 1],    w = (j - f[i]) / (f[i + 1] - f[i]),

which reproduces any volume that is linear along z exactly. Integers are rounded to the nearest, halves to
even. A label takes the nearer plane, and the first one if both are equally near.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import SAME_GRID
from voxelmill.basics.volume import Array
from voxelmill.inputs.readers.shared.axes_and_units import Latest

Vector = npt.NDArray[np.float64]

COINCIDES = 1e-3
"""Fraction of the new step: a slice this near to a place on the grid is taken unchanged."""

MOST_MADE = 10
"""Ratio of new to old slices from which on filling is refused: a position must be wrong."""

SHRINKS = 120
"""Iterations of the ternary search: 120 cuts by a third leave rounding error only."""


@dataclass(frozen=True)
class Even:
    """An even grid: slice n lies at ``first + n * step`` millimetres.

    Attributes
    ----------
    first, step : float
        In millimetres along the normal.
    off : array
        Signed distance of each existing slice from its place on the grid, in steps.
    """

    first: float
    step: float
    off: Vector

    @property
    def is_close(self) -> bool:
        """Whether every slice lies within `SAME_GRID` of its place.

        Two neighbours are then 0.8 to 1.2 steps apart. A missing slice makes a gap of two steps, so no grid
        is close, however long the series is.
        """
        return bool(np.abs(self.off).max() <= SAME_GRID)


@dataclass(frozen=True)
class Between:
    """The source of a slice of the grid: `weight` (0 to 1) of the way from slice `first` to the next one."""

    first: int
    weight: float = 0.0


def median_step(positions: Sequence[float]) -> float:
    """Return the median step between slices in millimetres; the lower of two middle values."""
    steps = np.sort(np.diff(positions))
    return float(steps[(len(steps) - 1) // 2])


def fit_even(positions: Sequence[float], numbers: Sequence[int]) -> Even:
    """Fit an even grid to slices.

    The grid runs from the first slice to the last, as in ITK and in annotation tools, if that leaves every
    slice within `SAME_GRID` of its place. Otherwise it is the grid with the smallest maximum deviation.

    Parameters
    ----------
    positions : sequence of float
        In millimetres along the normal, ascending.
    numbers : sequence of int
        Number of each slice on the grid, ascending; the first is 0.
    """
    at, index = np.asarray(positions, float), np.asarray(numbers, float)
    found = _even(at, index, positions[0], (positions[-1] - positions[0]) / numbers[-1])
    return found if found.is_close else _closest(at, index)


def _even(at: Vector, index: Vector, first: float, step: float) -> Even:
    return Even(first, step, (at - first) / step - index)


def _closest(at: Vector, index: Vector) -> Even:
    """Minimise the range of ``at - step * index``, which is convex in the step, by ternary search."""
    steps = np.diff(at) / np.diff(index)
    low, high = float(steps.min()), float(steps.max())
    for _ in range(SHRINKS):
        third = (high - low) / 3
        if np.ptp(at - (low + third) * index) <= np.ptp(at - (high - third) * index):
            high -= third
        else:
            low += third
    step = (low + high) / 2
    rest = at - step * index
    return _even(at, index, float(rest.min() + rest.max()) / 2, step)


def fill_gaps(positions: Sequence[float]) -> tuple[list[Between], Even] | None:
    """Fill in missing slices if every gap is a whole number of steps.

    Returns
    -------
    places : list of Between
        The slices of the grid.
    even : Even
        The grid.
    None
        If a gap is not a whole number of steps, nothing is missing, or `MOST_MADE` is reached.
    """
    gaps = np.diff(positions)
    counts = np.rint(gaps / median_step(positions)).astype(int)
    total = int(counts.sum())
    if counts.min() < 1 or not len(gaps) < total < MOST_MADE * len(positions):
        return None
    even = fit_even(positions, [0, *np.cumsum(counts).tolist()])
    if not even.is_close:
        return None
    made = [Between(i, j / n) for i, n in enumerate(counts.tolist()) for j in range(n)]
    return [*made, Between(len(gaps))], even


def even_out(positions: Sequence[float]) -> list[Between] | None:
    """Place slices evenly from the first position to the last, about the median step apart.

    Returns
    -------
    list of Between or None
        None if that would make `MOST_MADE` times as many slices or more.
    """
    extent = positions[-1] - positions[0]
    steps = max(round(extent / median_step(positions)), 1)
    if steps >= MOST_MADE * len(positions):
        return None
    places = (np.asarray(positions) - positions[0]) * (steps / extent)
    return [_between(places, j) for j in range(steps + 1)]


def _between(places: Vector, j: int) -> Between:
    nearest = int(np.abs(places - j).argmin())
    if abs(places[nearest] - j) <= COINCIDES:
        return Between(nearest)
    first = int(np.searchsorted(places, j)) - 1
    return Between(first, float((j - places[first]) / (places[first + 1] - places[first])))


def slice_maker(read: Callable[[int], Array], is_label: bool) -> Callable[[Between], Array]:
    """Return a function that makes the slices of a grid from those that `read` returns by number.

    If slices are requested in order, each source slice is read once and at most two are held.
    """
    # one cache for even numbers and one for odd ones: two neighbours never evict each other
    even, odd = Latest(read), Latest(read)

    def plane(place: Between) -> Array:
        first = (even, odd)[place.first % 2][place.first]
        if not place.weight:
            return first
        second = (odd, even)[place.first % 2][place.first + 1]
        return blend(first, second, place.weight, is_label)

    return plane


def blend(first: Array, second: Array, weight: float, is_label: bool) -> Array:
    """Interpolate between two planes; needs one float64 plane beside the result."""
    if is_label:
        return first if weight <= 0.5 else second
    plane = np.subtract(second, first, dtype=np.float64)
    plane *= weight
    plane += first
    if first.dtype.kind != "f":
        np.rint(plane, out=plane)
    return plane.astype(first.dtype)
