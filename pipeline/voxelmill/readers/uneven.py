"""Slices at uneven distances -> an even grid: which two slices each new one lies between, and how far.

In: positions in millimetres, ascending. Out: a `Between` for each slice of the grid, and planes made from
two. Knows no format. With f the positions in units of the new step, slice j between f[i] and f[i + 1] is

    (1 - w) * plane[i] + w * plane[i + 1],    w = (j - f[i]) / (f[i + 1] - f[i]),

which gives back exactly any volume that is linear along z; integers are rounded to the nearest, halves to
even. A label is the nearer plane, the first one in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxelmill.volume import Array

COINCIDES = 1e-3  # of the new step: slices that lie this near to where one is needed stay as they are
MOST_MADE = 10  # times as many slices as there were: beyond that a position is wrong


@dataclass(frozen=True)
class Between:
    """Where a slice of the grid comes from: `weight` of the way from slice `first` to the next one."""

    first: int
    weight: float = 0.0


def median_step(positions: Sequence[float]) -> float:
    """Millimetres from slice to slice, the lower one of two middle values."""
    steps = np.sort(np.diff(positions))
    return float(steps[(len(steps) - 1) // 2])


def fill_gaps(positions: Sequence[float], tolerance: float) -> list[Between] | None:
    """Put in the slices that are missing where every gap is a whole number of steps.

    Parameters
    ----------
    tolerance : float
        Millimetres by which a gap may differ from a whole number of steps.

    Returns
    -------
    list of Between or None
        None where gaps are no whole numbers of steps, or nothing is missing.
    """
    gaps = np.diff(positions)
    counts = np.rint(gaps / median_step(positions))
    total = counts.sum()
    step = (positions[-1] - positions[0]) / max(total, 1)
    is_whole = (counts >= 1).all() and (np.abs(gaps - counts * step) <= tolerance).all()
    if not is_whole or not len(gaps) < total < MOST_MADE * len(positions):
        return None
    made = [Between(i, j / n) for i, n in enumerate(counts.astype(int).tolist()) for j in range(n)]
    return [*made, Between(len(gaps))]


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


def _between(places: npt.NDArray[np.float64], j: int) -> Between:
    nearest = int(np.abs(places - j).argmin())
    if abs(places[nearest] - j) <= COINCIDES:
        return Between(nearest)
    first = int(np.searchsorted(places, j)) - 1
    return Between(first, float((j - places[first]) / (places[first + 1] - places[first])))


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
