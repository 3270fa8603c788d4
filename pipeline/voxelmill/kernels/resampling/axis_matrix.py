"""One axis of a resampling as a banded matrix: ``out = W @ in``.

Every order from 0 to 3, the border rule, the spline prefilter and the anti-aliasing filter are linear and
separable. Row ``o`` of W samples the input at ``c = (o + 0.5) * n_in / n_out - 0.5``, as
``scipy.ndimage.zoom(mode="nearest", grid_mode=True)`` does, on a signal continued by its edge voxel. Orders
2 and 3 interpolate with a cardinal spline, ``h(x) = sum_k g * z**abs(k) * bspline(x - k)`` (M. Unser, IEEE
Signal Processing Magazine 16(6), 1999). SciPy pads 12 voxels and mirrors beyond: a difference of ``z**24``.

W is applied in one of two forms:

- a `Band` holds the rows of W, cut to ``2 * half`` taps (plus those of the Gaussian). The absolute sum of the
  taps that are cut off is below ``TAIL[order] * abs(z)**half``: 1.9e-7 for float32, 2.6e-14 for float64 at
  order 3.
- a `Step` holds the rows of B in W = B P, four taps each; the prefilter P is a recursion, forwards and
  backwards. It starts `HALO` voxels outside the samples of a *piece*, as if the signal were constant beyond.
  Pieces are the output voxels between multiples of `GRID`, counted from voxel 0, so that the window of a
  voxel, and with it every bit of the result, is the same in every box. The error of a voxel is below
  ``3 * abs(z)**HALO`` of half the value range: 4.2e-7 for float32, 6e-14 for float64.

The absolute sum of a row of W is at most 1.55, so the error of three axes is at most ``3 * 1.55**2`` times
that: 7e-7 of the value range for float32 in the first form, 1.5e-6 in the second, before rounding. On noise
the measured error is 2e-7.

**Memory.** A row holds ``taps * itemsize + 8`` bytes; a dense matrix is never made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Box

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

POLE = {2: 8**0.5 - 3, 3: 3**0.5 - 2}
"""Pole z of the prefilter, by order."""
GAIN = {2: 8.0, 3: 6.0}
"""Gain of the prefilter, by order; the weights of B include it."""
TAIL = {2: 4.3, 3: 1.35}
"""Factor of the error bound of a `Band`, by order."""
HALF = {4: {2: 12, 3: 12}, 8: {2: 18, 3: 24}}
"""Taps of a band on each side of a sample, by bytes of a voxel and order."""
HALO = {4: 12, 8: 24}
"""Voxels that the recursion starts outside a piece on each side, by bytes of a voxel."""
GRID = 64
"""Output voxels of a piece."""
SLAB = 1 << 23
"""Voxels that a sweep holds between its two passes, or one piece if that is more."""
SHORT = 1 << 20
"""Largest output with short rows, in voxels, that is computed in a copy with long rows."""


@dataclass(frozen=True)
class Band:
    """Rows of W: ``out[o] = sum_t weights[o, t] * in[first[o] + t]``.

    Attributes
    ----------
    first : (rows,) int64
        First input voxel of each row.
    weights : (rows, taps)
        In the dtype of the result; zero where ``first + t`` lies beyond the axis.
    """

    first: Index
    weights: npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """Rows of B, piece by piece: ``out[o] = sum_t weights[o, t] * held[first[o] + t]``.

    `held` is a window of the input with its ends repeated or, with a pole, the window's spline coefficients.

    Attributes
    ----------
    first : (rows,) int64
        First voxel of each row; it may lie beyond the ends of the axis.
    weights : (rows, taps)
        In the dtype of the result; the number of taps is a multiple of 4.
    pieces : (n, 4) int64
        For each piece its output rows, counted from the first row, and its window on the input axis: two
        half-open ranges.
    pole : float
        Pole of the recursion; 0 for none.
    reads : (int, int)
        Input voxels that the result depends on, half-open.
    is_copy : bool
        Whether each output voxel is a copy of one input voxel.
    """

    first: Index
    weights: npt.NDArray[Any]
    pieces: Index
    pole: float
    reads: tuple[int, int]
    is_copy: bool


def sample_positions(n_in: int, n_out: int, start: int, stop: int) -> Float:
    """Return the positions of output voxels ``start`` to ``stop`` on the input axis, in input voxels.

    The order of operations is SciPy's, so that the positions agree to the last bit.
    """
    return np.asarray((np.arange(start, stop) + 0.5) * (n_in / n_out) - 0.5, np.float64)


def nearest_index(n_in: int, n_out: int, start: int, stop: int) -> Index:
    """Return the index of the nearest input voxel, ``floor(c + 0.5)``: ties go up, as in SciPy's order 0."""
    c = sample_positions(n_in, n_out, start, stop)
    return np.clip(np.floor(c + 0.5), 0, n_in - 1).astype(np.int64)


@lru_cache(maxsize=256)
def band(n_in: int, n_out: int, start: int, stop: int, order: int, anti_alias: bool, itemsize: int) -> Band:
    """Return rows ``start`` to ``stop`` of the matrix of one axis.

    Parameters
    ----------
    n_in, n_out : int
        Voxels along the whole axis, before and after.
    order : int
        Spline degree, 0 to 3.
    anti_alias : bool
        Apply scikit-image's Gaussian first if the axis shrinks: sigma ``(n_in / n_out - 1) / 2``, cut at
        4 sigma.
    itemsize : {4, 8}
        Bytes of a voxel; wider voxels keep more taps.
    """
    first, weights = _samples(n_in, n_out, start, stop, order)
    if order > 1 and n_in != n_out:
        half = HALF[itemsize][order]
        offset, gain = np.arange(2 - half, 2 + half), -POLE[order] / (1 - POLE[order] ** 2)
        responses = [gain * POLE[order] ** np.abs(offset - m) for m in range(weights.shape[1])]
        # not a matrix product, whose bits would depend on the number of rows
        weights = sum(w[:, None] * response for w, response in zip(weights.T, responses, strict=True))
        first = first + 2 - half
    gauss = _gaussian((n_in / n_out - 1) / 2) if anti_alias and n_in > n_out else np.ones(1)
    return _fold(first, weights, gauss, n_in, np.dtype(f"f{itemsize}"))


@lru_cache(maxsize=256)
def step(n_in: int, n_out: int, start: int, stop: int, order: int, anti_alias: bool, itemsize: int) -> Step:
    """Return rows ``start`` to ``stop`` of one axis for the compiled sweeps; parameters as for `band`."""
    halo, pole = 0, 0.0
    if anti_alias and n_in > n_out:
        rows = band(n_in, n_out, start, stop, order, anti_alias, itemsize)
        first, weights = rows.first, rows.weights
    else:
        first, weights = _samples(n_in, n_out, start, stop, order)
        if order > 1 and n_in != n_out:
            halo, pole = HALO[itemsize], POLE[order]
    taps = weights.shape[1]
    padded = np.zeros((len(first), taps + -taps % 4), f"f{itemsize}")
    padded[:, :taps] = weights
    pieces, reads = [], (n_in, 0)
    for grid in range(start - start % GRID, stop, GRID):
        a, b = max(start, grid), min(stop, grid + GRID)
        low, high = int(first[a - start]), int(first[b - 1 - start]) + taps
        if halo:
            # The window is that of the whole piece, also if the box holds a part of it: the same bits. Beyond
            # an end the signal is constant, so the window reaches only as far as the kernel: 2 voxels.
            whole = [
                _samples(n_in, n_out, o, o + 1, order)[0][0] for o in (grid, min(grid + GRID, n_out) - 1)
            ]
            low, high = max(int(whole[0]) - halo, -2), min(int(whole[1]) + taps + halo, n_in + 2)
        reads = min(reads[0], max(low, 0)), max(reads[1], min(high, n_in))
        pieces.append((a - start, b - start, low, max(high, int(first[b - 1 - start]) + padded.shape[1])))
    return Step(first, padded, np.array(pieces, np.int64), pole, reads, taps == 1)


def _samples(n_in: int, n_out: int, start: int, stop: int, order: int) -> tuple[Index, Float]:
    """Return rows of B for an axis without ends: first voxel (or coefficient) and weights of each row."""
    if n_in == n_out:
        return np.arange(start, stop), np.ones((stop - start, 1))
    if order == 0:
        return nearest_index(n_in, n_out, start, stop), np.ones((stop - start, 1))
    c = sample_positions(n_in, n_out, start, stop)
    if order == 1:
        c = np.clip(c, 0, n_in - 1)
        return np.floor(c).astype(np.int64), np.stack([1 - (c - np.floor(c)), c - np.floor(c)], 1)
    centre = np.floor(c + 0.5 * (order == 2))
    return centre.astype(np.int64) - 1, GAIN[order] * np.stack(_bspline(c - centre, order), 1)


def _bspline(t: Float, order: int) -> list[Float]:
    """Return the B-spline weights of the coefficients at -1, 0, 1 (and 2) relative to the centre."""
    if order == 2:
        return [(0.5 - t) ** 2 / 2, 0.75 - t * t, (0.5 + t) ** 2 / 2]
    s = 1 - t
    return [s**3 / 6, (t * t * (t - 2) * 3 + 4) / 6, (s * s * (s - 2) * 3 + 4) / 6, t**3 / 6]


def _gaussian(sigma: float) -> Float:
    """Return the kernel of ``scipy.ndimage.gaussian_filter`` with its default ``truncate=4``."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    kernel = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    return np.asarray(kernel / kernel.sum())


def _fold(at: Index, weights: Float, gauss: Float, n: int, dtype: np.dtype[Any]) -> Band:
    """Convolve the rows with `gauss` and add the weights beyond an end to the edge voxel."""
    rows, radius = np.arange(len(at))[:, None], len(gauss) // 2
    taps = weights.shape[1] + 2 * radius
    first = np.clip(at - radius, 0, max(n - taps, 0))
    folded = np.zeros((len(at), taps))
    inside = np.clip(at[:, None] + np.arange(weights.shape[1]), 0, n - 1)
    for k, g in enumerate(gauss, start=-radius):
        np.add.at(folded, (rows, np.clip(inside + k, 0, n - 1) - first[:, None]), g * weights)
    return Band(first, folded.astype(dtype))


@dataclass(frozen=True)
class Rule:
    """How a volume is resampled: all parameters that decide a voxel's value, except for the clip range.

    Attributes
    ----------
    shape_in, shape_out : (z, y, x)
        Voxels of the whole input and output.
    order, separate_axis, order_separate, anti_alias
        As for `voxelmill.resample`.
    itemsize : {4, 8}
        Bytes of a voxel.
    """

    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    order: int = 3
    separate_axis: int | None = None
    order_separate: int = 0
    anti_alias: bool = False
    itemsize: int = 4

    def __post_init__(self) -> None:
        if self.order not in (0, 1, 2, 3) or self.order_separate not in (0, 1, 2, 3):
            orders = f"order is {self.order} and order_separate {self.order_separate}"
            raise ValueError(f"{orders}; 0, 1, 2 or 3 are possible")
        if self.separate_axis not in (None, 0, 1, 2):
            raise ValueError(f"separate_axis is {self.separate_axis}; None, 0, 1 or 2 is needed")
        for name in ("shape_in", "shape_out"):
            shape = getattr(self, name)
            if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
                raise ValueError(f"{name} is {tuple(shape)}; three whole numbers of at least 1 are needed")
            object.__setattr__(self, name, tuple(int(n) for n in shape))

    def is_copy(self, axis: int) -> bool:
        """Return whether each output voxel is a copy of one input voxel along an axis."""
        n_in, n_out = self.shape_in[axis], self.shape_out[axis]
        order = self.order_separate if axis == self.separate_axis else self.order
        return n_in == n_out or (order == 0 and not (self.anti_alias and n_in > n_out))

    def axes(self, write: Box) -> list[tuple[int, int, int, int, int, bool, int]]:
        """Return the arguments of `band` and `step` for each axis of an output box."""
        orders = [self.order_separate if k == self.separate_axis else self.order for k in range(3)]
        spans = zip(self.shape_in, self.shape_out, write.start, write.stop, orders, strict=True)
        return [(*span, self.anti_alias, self.itemsize) for span in spans]

    def steps(self, write: Box) -> list[Step]:
        """Return the rows of each axis for an output box."""
        if any(not 0 <= a < b <= n for a, b, n in zip(write.start, write.stop, self.shape_out, strict=True)):
            raise ValueError(f"box {write.bounds} is empty or not inside the output shape {self.shape_out}")
        return [step(*axis) for axis in self.axes(write)]

    def read_box(self, write: Box) -> Box:
        """Return the input box that an output box needs; see the function `read_box`."""
        return Box.from_bounds([axis.reads for axis in self.steps(write)])


def read_box(
    write: Box,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    *,
    order: int = 3,
    separate_axis: int | None = None,
    order_separate: int = 0,
    anti_alias: bool = False,
    itemsize: int = 4,
) -> Box:
    """Return the input box that an output box needs. Only this module knows the halo.

    The prefilter reaches every voxel, but its weight falls by a factor of 3.73 per voxel, so a finite halo
    meets the error bound above::

        |hhhh|ssssssssssss|hhhh|      s: samples under the kernel of the pieces touched   h: halo
               |wwwwwwww|             w: write box, in output voxels

    Parameters
    ----------
    write : Box
        Output box (z, y, x), not empty.
    shape_in, shape_out : (z, y, x)
        Voxels of the whole input and output.
    order, separate_axis, order_separate, anti_alias
        As for `voxelmill.resample`. For labels: order 0 for nearest, 1 for linear, `order_separate` 0.
    itemsize : {4, 8}
        Bytes of a voxel: float64 has a wider halo. Orders 0 and 1 have no halo.

    Returns
    -------
    Box
        In input voxels, clipped to the input.

    Raises
    ------
    ValueError
        If the box is empty or not inside `shape_out`, or a shape, an order or an axis is invalid.
    """
    shapes = tuple(shape_in), tuple(shape_out)
    return Rule(*shapes, order, separate_axis, order_separate, anti_alias, itemsize).read_box(write)
