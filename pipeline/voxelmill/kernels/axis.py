"""One axis of a resampling as a banded matrix: ``out = W @ in``.

Every order from 0 to 3, the border rule, the spline prefilter and the anti-aliasing filter are linear and
separable. Row ``o`` of W samples the input at ``c = (o + 0.5) * n_in / n_out - 0.5``, as
``scipy.ndimage.zoom(mode="nearest", grid_mode=True)`` does. Orders 2 and 3 interpolate with a cardinal
spline, ``h(x) = sum_k p_k * bspline(x - k)`` with ``p_k = g * z**abs(k)`` (the prefilter's impulse response:
M. Unser, IEEE Signal Processing Magazine 16(6), 1999), on a signal continued by its edge voxel; SciPy pads
12 voxels before it filters, which differs from that by less than ``z**24``, 2e-14.

**Error bound.** ``h`` falls by ``1 / abs(z)`` a voxel, so a row keeps ``2 * half`` taps. What is cut off has
an absolute sum below ``TAIL[order] * abs(z)**half``: 1.9e-7 for float32 and 2.6e-14 for float64 at order 3.
The absolute sum of a row is at most 1.55, so three axes err by at most ``3 * 1.55**2 * 1.9e-7`` of half the
value range: 6.9e-7 of the range.

**Memory.** A band holds ``taps * itemsize + 8`` bytes a row; a dense matrix is never made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.geometry import Box

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

POLE = {2: 8**0.5 - 3, 3: 3**0.5 - 2}
GAIN = {2: 2**0.5, 3: 3**0.5}
TAIL = {2: 4.3, 3: 1.35}
HALF = {4: {2: 12, 3: 12}, 8: {2: 18, 3: 24}}
"""Taps on each side of a sample, by bytes of a voxel and order."""


@dataclass(frozen=True)
class Band:
    """Rows of W: ``out[o] = sum_t weights[o, t] * in[first[o] + t]``.

    Attributes
    ----------
    first : (rows,) int64
        First input voxel of each row, never falling.
    weights : (rows, taps)
        In the dtype they are applied in; zero where ``first + t`` lies beyond the axis.
    n_in : int
        Length of the input axis.
    """

    first: Index
    weights: npt.NDArray[Any]
    n_in: int

    @property
    def taps(self) -> int:
        """Weights in a row."""
        return int(self.weights.shape[1])

    @property
    def is_gather(self) -> bool:
        """Each output voxel is a copy of one input voxel."""
        return self.taps == 1

    @property
    def reads(self) -> tuple[int, int]:
        """The input voxels that these rows touch, half-open."""
        return int(self.first[0]), min(int(self.first[-1]) + self.taps, self.n_in)


def sample_positions(n_in: int, n_out: int, start: int, stop: int) -> Float:
    """Where output voxels ``start`` to ``stop`` lie on the input axis, in SciPy's order of operations."""
    return (np.arange(start, stop) + 0.5) * (n_in / n_out) - 0.5


def nearest_index(n_in: int, n_out: int, start: int, stop: int) -> Index:
    """Index of the nearest input voxel, ``floor(c + 0.5)``: ties go up, as in SciPy's order 0."""
    c = sample_positions(n_in, n_out, start, stop)
    return np.clip(np.floor(c + 0.5), 0, n_in - 1).astype(np.int64)


@lru_cache(maxsize=256)
def band(
    n_in: int, n_out: int, start: int, stop: int, order: int, anti_alias: bool, itemsize: int
) -> Band | None:
    """Rows ``start`` to ``stop`` of one axis' matrix, or None where the axis keeps its length.

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
    if n_in == n_out:
        return None
    at, weights = _spline_rows(sample_positions(n_in, n_out, start, stop), n_in, order, itemsize)
    gauss = _gaussian((n_in / n_out - 1) / 2) if anti_alias and n_in > n_out else np.ones(1)
    return _fold(at, weights, gauss, n_in, np.dtype(f"f{itemsize}"))


def _spline_rows(c: Float, n: int, order: int, itemsize: int) -> tuple[Index, Float]:
    """First input voxel and weights of each row on an axis without ends."""
    if order == 0:
        return np.clip(np.floor(c + 0.5), 0, n - 1).astype(np.int64), np.ones((len(c), 1))
    if order == 1:
        c = np.clip(c, 0, n - 1)
        return np.floor(c).astype(np.int64), np.stack([1 - (c - np.floor(c)), c - np.floor(c)], 1)
    centre = np.floor(c + 0.5 * (order == 2))
    half = HALF[itemsize][order]
    offset = np.arange(1 - half, half + 1)
    weights = np.zeros((len(c), 2 * half))
    for m, b in enumerate(_bspline(c - centre, order), start=-1):
        weights += b[:, None] * (GAIN[order] * POLE[order] ** np.abs(offset - m))
    return centre.astype(np.int64) + 1 - half, weights


def _bspline(t: Float, order: int) -> list[Float]:
    """B-spline weights of the coefficients at -1, 0, 1 (and 2) around the centre."""
    if order == 2:
        return [(0.5 - t) ** 2 / 2, 0.75 - t * t, (0.5 + t) ** 2 / 2]
    s = 1 - t
    return [s**3 / 6, (t * t * (t - 2) * 3 + 4) / 6, (s * s * (s - 2) * 3 + 4) / 6, t**3 / 6]


def _gaussian(sigma: float) -> Float:
    """The kernel of ``scipy.ndimage.gaussian_filter`` with its default ``truncate=4``."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return np.ones(1)
    kernel = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    return np.asarray(kernel / kernel.sum())


def _fold(at: Index, weights: Float, gauss: Float, n: int, dtype: np.dtype[Any]) -> Band:
    """Convolve the rows with `gauss`, add what lies beyond an end to the edge voxel, pad the taps."""
    rows, radius = np.arange(len(at))[:, None], len(gauss) // 2
    taps = weights.shape[1] + 2 * radius
    if taps > 2:
        taps += -taps % 12  # the compiled kernel takes twelve at a time
    first = np.clip(at - radius, 0, max(n - taps, 0))
    folded = np.zeros((len(at), taps))
    inside = np.clip(at[:, None] + np.arange(weights.shape[1]), 0, n - 1)
    for k, g in enumerate(gauss, start=-radius):
        np.add.at(folded, (rows, np.clip(inside + k, 0, n - 1) - first[:, None]), g * weights)
    return Band(first, folded.astype(dtype), n)


def bands(
    write: Box,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    *,
    order: int = 3,
    separate_axis: int | None = None,
    order_separate: int = 0,
    anti_alias: bool = False,
    itemsize: int = 4,
) -> list[Band | None]:
    """The matrix rows of each axis for one output box; None where an axis keeps its length."""
    orders = [order_separate if axis == separate_axis else order for axis in range(3)]
    return [
        band(n, m, a, b, k, anti_alias, itemsize)
        for n, m, a, b, k in zip(shape_in, shape_out, write.start, write.stop, orders, strict=True)
    ]


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
    """Input box that one output box needs; the one place that knows the halo.

    The prefilter reaches every voxel, but what it adds falls by 3.73 a voxel, so a finite halo meets the
    error bound above::

        |hhhh|ssssssssssss|hhhh|      s: samples under the kernel   h: halo
             |wwwwwwwwwwww|           w: write box, in output voxels

    Parameters
    ----------
    write : Box
        Output box (z, y, x), not empty.
    shape_in, shape_out : (z, y, x)
        Voxels of the whole input and output.
    order, separate_axis, order_separate, anti_alias
        As for `voxelmill.resample`. For labels: order 0 for nearest, 1 for linear, `order_separate` 0.
    itemsize : {4, 8}
        Bytes of a voxel: float64 has a wider halo. Orders 0 and 1 have none.

    Returns
    -------
    Box
        In voxels of the input, clipped to it.

    Raises
    ------
    ValueError
        If the box is empty or not inside `shape_out`.
    """
    if any(not 0 <= a < b <= n for a, b, n in zip(write.start, write.stop, shape_out, strict=True)):
        raise ValueError(f"box {write.bounds} is empty or not inside the output shape {tuple(shape_out)}")
    orders = [order_separate if axis == separate_axis else order for axis in range(3)]
    reads = []
    for n, m, a, b, k in zip(shape_in, shape_out, write.start, write.stop, orders, strict=True):
        ends = [band(n, m, o, o + 1, k, anti_alias, itemsize) for o in (a, b - 1)]
        reads.append((a, b) if ends[0] is None or ends[1] is None else (ends[0].reads[0], ends[1].reads[1]))
    return Box.from_bounds(reads)
