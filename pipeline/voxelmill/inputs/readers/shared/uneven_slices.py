"""Where slices lie -> an even grid, and where they are uneven, which two slices each new one lies between.

In: positions in millimetres, ascending. Out: an `Even` grid, a `Between` for each slice of it, and planes
made of two. Knows no format. With f the positions in units of the new step, slice j between f[i] and
f[i + 1] is

    (1 - w) * plane[i] + w * plane[i + 1],    w = (j - f[i]) / (f[i + 1] - f[i]),

which gives back exactly any volume that is linear along z; integers are rounded to the nearest, halves to
even. A label is the nearer plane, the first one in the middle.
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

COINCIDES = 1e-3  # of the new step: slices that lie this near to where one is needed stay as they are
MOST_MADE = 10  # times as many slices as there were: beyond that a position is wrong


SHRINKS = 120  # times that the range of steps is cut by a third: until only rounding is left of it


@dataclass(frozen=True)
class Even:
    """An even grid: slice n lies at ``first + n * step`` millimetres.

    Attributes
    ----------
    off : array
        For each slice that is there, in steps, how far it lies from its place.
    """

    first: float
    step: float
    off: Vector

    @property
    def is_close(self) -> bool:
        """Whether no slice lies farther from its place than `SAME_GRID`.

        Then two neighbours are 0.8 to 1.2 steps apart: where a slice is missing it is two steps, which no
        grid is close to, however long the series.
        """
        return bool(np.abs(self.off).max() <= SAME_GRID)


@dataclass(frozen=True)
class Between:
    """Where a slice of the grid comes from: `weight` of the way from slice `first` to the next one."""

    first: int
    weight: float = 0.0


def median_step(positions: Sequence[float]) -> float:
    """Millimetres from slice to slice, the lower one of two middle values."""
    steps = np.sort(np.diff(positions))
    return float(steps[(len(steps) - 1) // 2])


def fit_even(positions: Sequence[float], numbers: Sequence[int]) -> Even:
    """The even grid that slices lie on, of which `numbers` says which is which; the first is number 0.

    It goes from the first slice to the last, as in ITK and the tools that labels are drawn with, where that
    leaves every slice within `SAME_GRID` of its place; elsewhere it is the grid of the smallest largest
    deviation.
    """
    at, index = np.asarray(positions, float), np.asarray(numbers, float)
    found = _even(at, index, positions[0], (positions[-1] - positions[0]) / numbers[-1])
    return found if found.is_close else _closest(at, index)


def _even(at: Vector, index: Vector, first: float, step: float) -> Even:
    return Even(first, step, (at - first) / step - index)


def _closest(at: Vector, index: Vector) -> Even:
    """The range of ``at - step * index`` is convex in the step, which is searched by thirds."""
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
    """Put in the slices that are missing where every gap is a whole number of steps.

    Returns
    -------
    places : list of Between
        The slices of the grid.
    even : Even
        The grid.
    None
        Where gaps are no whole numbers of steps, or nothing is missing.
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
    """Slices from the first position to the last, about the median step apart.

    Returns
    -------
    list of Between or None
        None where that would be more than `MOST_MADE` times as many slices.
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
    """A function that gives the slices of a grid, of those that `read` gives by number.

    Asked for in order, each is read once; two at most are held.
    """
    even, odd = Latest(read), Latest(read)  # two neighbours are never in one of them

    def plane(place: Between) -> Array:
        first = (even, odd)[place.first % 2][place.first]
        if not place.weight:
            return first
        second = (odd, even)[place.first % 2][place.first + 1]
        return blend(first, second, place.weight, is_label)

    return plane


def blend(first: Array, second: Array, weight: float, is_label: bool) -> Array:
    """The plane `weight` of the way between two; holds one plane of float64 beside the result."""
    if is_label:
        return first if weight <= 0.5 else second
    plane = np.subtract(second, first, dtype=np.float64)
    plane *= weight
    plane += first
    if first.dtype.kind != "f":
        np.rint(plane, out=plane)
    return plane.astype(first.dtype)
