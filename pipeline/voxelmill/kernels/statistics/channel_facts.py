"""The facts of one channel of one case, collected slab by slab for the fingerprint.

In: slabs (z, y, x) of stored values, with the foreground if there is a label. Out: `Facts`: per slice along
each axis the range and number of non-zero voxels; sums; and the exact histogram of the foreground. All facts
refer to rescaled values. This module knows no files, cases or other channels, and merges nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Box, Shape
from voxelmill.kernels.statistics.channel_facts_pass import scan_plane
from voxelmill.kernels.statistics.histogram import (
    BINS,
    Array,
    Int64,
    bin_values,
    class_counts,
    histogram_values,
    key_offset,
    refine,
    refined_values,
    zero_keys,
)
from voxelmill.kernels.statistics.slices_seen import SlicesSeen
from voxelmill.kernels.statistics.voxel_values import (
    ZERO_KEY,
    Float32,
    check_rescale,
    is_narrow,
    rescale,
    values_of,
)

__all__ = [
    "BINS",
    "ChannelFacts",
    "Facts",
    "bin_values",
    "class_counts",
    "histogram_values",
    "nonzero_box",
    "refine",
    "refined_values",
    "value_range",
]


@dataclass(frozen=True)
class Facts:
    """Facts of one channel of one case; "non-zero" means ``value != 0``, values are rescaled.

    Attributes
    ----------
    low, high : three float32 arrays, of lengths z, y and x
        Range of the non-zero voxels of each slice along that axis; +inf and -inf if there are none.
    nonzero : three int64 arrays, of lengths z, y and x
        Number of non-zero voxels of each slice along that axis.
    count, total, squares : int, float, float
        Number, sum and sum of squares of all non-zero voxels.
    foreground_count, foreground_total, foreground_squares : int, float, float
        The same for the foreground; without a label the foreground is all non-zero voxels.
    foreground_low, foreground_high : float
        Range of the foreground; +inf and -inf if there is none.
    histogram : int64 array (65536,)
        Histogram of the foreground. For integers of at most 16 bits, bin i counts the stored value i, or
        i - 32768 for signed types. For other types, bin i counts the values whose 32-bit key has the high
        half i.
    nonfinite : int
        Number of voxels that are not finite; all other fields ignore them.
    """

    low: tuple[Float32, Float32, Float32]
    high: tuple[Float32, Float32, Float32]
    nonzero: tuple[Int64, Int64, Int64]
    count: int
    total: float
    squares: float
    foreground_count: int
    foreground_total: float
    foreground_squares: float
    foreground_low: float
    foreground_high: float
    histogram: Int64
    nonfinite: int

    @property
    def shape(self) -> Shape:
        """Number of voxels along z, y, x."""
        z, y, x = (len(n) for n in self.nonzero)
        return z, y, x

    def to_arrays(self) -> dict[str, Array]:
        """Return all fields as arrays, for a store; `low`, `high` and `nonzero` are joined over the axes."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        arrays = {k: np.concatenate(v) if isinstance(v, tuple) else np.asarray(v) for k, v in values}
        return {"shape": np.array(self.shape), **arrays}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Facts:
        """Make the facts from the arrays of `to_arrays`."""
        loaded: dict[str, Any] = {}
        for name in (f.name for f in fields(cls)):
            array = np.asarray(arrays[name])
            if name in ("low", "high", "nonzero"):
                loaded[name] = _split(array, arrays["shape"])
            else:
                loaded[name] = array.item() if array.ndim == 0 else array
        return cls(**loaded)


class ChannelFacts:
    """Accumulates the facts of one channel, one slab of whole z slices at a time.

    The result does not depend on the depth or the order of the slabs: integers are summed exactly; floats
    are summed per slice in float64, then over the slices with exact arithmetic and one rounding.

    Parameters
    ----------
    shape : (z, y, x)
        Shape of the whole channel.
    dtype : numpy dtype
        Type of the stored values.
    slope, intercept : float
        ``value = stored * slope + intercept``.

    Raises
    ------
    ValueRuleError
        If the type holds no real numbers, or `check_rescale` refuses the rescaling.
    """

    def __init__(self, shape: Shape, dtype: npt.DTypeLike, slope: float = 1.0, intercept: float = 0.0):
        check_rescale(dtype, slope, intercept)
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.slope = slope
        self.intercept = intercept
        self._narrow = is_narrow(dtype)
        self._zeros = zero_keys(dtype, slope, intercept)
        self._flip = key_offset(dtype) if self._narrow else ZERO_KEY
        key = np.iinfo(np.uint16 if self._narrow else np.uint32)
        self._low = np.full(sum(shape), key.max, key.dtype)  # for the z, then the y, then the x slices
        self._high = np.zeros(sum(shape), key.dtype)
        self._nonzero = np.zeros(sum(shape), np.int64)
        self._extent = np.stack([np.full(shape[2], key.max), np.zeros(shape[2])]).astype(key.dtype)
        self._sums = np.zeros((shape[0], 4), np.int64 if self._narrow else np.float64)
        self._histogram = np.zeros(BINS, np.int64)
        self._nonfinite = 0
        self._slices = SlicesSeen(shape)

    def add(self, z: int, data: Array, foreground: Array | None = None) -> None:
        """Add slices ``z`` to ``z + len(data)``.

        Parameters
        ----------
        z : int
            Index of the first slice.
        data : array (d, y, x)
            Stored values.
        foreground : array (d, y, x), optional
            Non-zero marks the foreground; by default the foreground is all voxels with ``value != 0``.

        Raises
        ------
        ValueError
            If the slices do not fit the shape, were added before, or have another type.
        """
        self._claim(z, data, foreground)
        unmasked = np.ones((1, 1), np.bool_)
        for i, stored in enumerate(data):
            bits, values = self._bits(stored)
            inside = unmasked if foreground is None else np.require(foreground[i], np.bool_, ["C", "W"])
            sums = np.zeros((4, self.shape[2]), self._sums.dtype)
            self._nonfinite += scan_plane(
                bits, values, inside, foreground is not None, z + i, self.shape[0], self._zeros, self._flip,
                self._low, self._high, self._nonzero, self._extent, sums, self._histogram,
            )  # fmt: skip
            self._sums[z + i] = sums.sum(axis=1)

    def _bits(self, stored: Array) -> tuple[Array, Array | None]:
        """Return one slice as unsigned 16- or 32-bit words, and for wide types as values to be summed."""
        if self._narrow:
            integers = stored.astype(np.int16 if self._flip else np.uint16, copy=False)
            return np.require(integers, requirements=["C", "W"]).view(np.uint16), None
        if self.dtype != np.float32 or (self.slope, self.intercept) != (1, 0):
            stored = rescale(stored, self.slope, self.intercept)
        values = np.require(stored, requirements=["C", "W"])
        return values.view(np.uint32), values

    def _claim(self, z: int, data: Array, foreground: Array | None) -> None:
        """Check that the slab fits and was not added before."""
        if foreground is not None and foreground.shape != data.shape:
            raise ValueError(f"foreground has shape {foreground.shape}, its slab {data.shape}")
        if data.dtype != self.dtype:
            raise ValueError(f"a slab is {data.dtype}, the channel {self.dtype}")
        self._slices.claim(z, data.shape)

    def result(self) -> Facts:
        """Return the facts after every slice was added.

        Raises
        ------
        ValueError
            If slices are missing.
        """
        self._slices.check_all("facts")
        low, high = self._range(self._low, self._high, self._nonzero)
        count = int(self._nonzero[: self.shape[0]].sum())
        total, squares = self._moments(count, self._sums[:, 0].tolist(), self._sums[:, 1].tolist())
        return Facts(
            low=_split(low, self.shape),
            high=_split(high, self.shape),
            nonzero=_split(self._nonzero, self.shape),
            count=count,
            total=total,
            squares=squares,
            **self._foreground(),
            histogram=self._histogram,
            nonfinite=self._nonfinite,
        )

    def _foreground(self) -> dict[str, Any]:
        """Return the fields of the foreground; for a narrow type they follow from the histogram."""
        keys = np.flatnonzero(self._histogram)
        counts = self._histogram[keys]
        count = int(counts.sum())
        if self._narrow:
            extremes = keys[:1], keys[-1:]
            pairs = list(zip(keys.tolist(), counts.tolist(), strict=True))
            sums = [k * n for k, n in pairs], [k * k * n for k, n in pairs]
        else:
            extremes = self._extent[0].min(keepdims=True), self._extent[1].max(keepdims=True)
            sums = self._sums[:, 2].tolist(), self._sums[:, 3].tolist()
        low, high = self._range(*extremes, counts[:1])
        total, squares = self._moments(count, *sums)
        return {
            "foreground_count": count,
            "foreground_total": total,
            "foreground_squares": squares,
            "foreground_low": float(low.min(initial=np.inf)),
            "foreground_high": float(high.max(initial=-np.inf)),
        }

    def _range(self, low: Array, high: Array, count: Int64) -> tuple[Float32, Float32]:
        """Convert lowest and highest keys to values; a negative slope swaps them."""
        if self._narrow:
            table = bin_values(self.dtype, self.slope, self.intercept)
            a, b = table[low], table[high]
        else:
            a, b = values_of(low), values_of(high)
        infinity = np.float32(np.inf)
        low = np.where(count > 0, np.minimum(a, b), infinity)
        return low, np.where(count > 0, np.maximum(a, b), -infinity)

    def _moments(self, count: int, sums: list[Any], squares: list[Any]) -> tuple[float, float]:
        """Return sum and sum of squares of `count` values, from the sums of keys (narrow types) or values."""
        if not self._narrow:
            return math.fsum(sums), math.fsum(squares)
        slope = Fraction(self.slope)  # exact: expanding the square in floats would cancel digits
        shift = Fraction(self.intercept) - slope * key_offset(self.dtype)  # value = key * slope + shift
        first, second = sum(sums), sum(squares)
        exact = second * slope**2 + 2 * slope * shift * first + count * shift**2
        return float(first * slope + count * shift), float(exact)


def nonzero_box(channels: Sequence[Facts]) -> Box:
    """Return the smallest box with the non-zero voxels of all channels, or the whole array without any."""
    hits = [np.any([facts.nonzero[axis] for facts in channels], axis=0).nonzero()[0] for axis in range(3)]
    if len(hits[0]) == 0:
        return Box.whole(channels[0].shape)
    return Box(tuple(int(h[0]) for h in hits), tuple(int(h[-1]) + 1 for h in hits))


def value_range(
    facts: Facts, box: Box, axis: int | None = None, voxels: npt.ArrayLike | None = None
) -> tuple[Float32, Float32]:
    """Return the range of one channel inside the crop box, or inside the mask.

    Parameters
    ----------
    facts : Facts
        Facts of the channel.
    box : Box
        A box that holds every non-zero voxel of the channel, such as that of `nonzero_box`.
    axis : 0, 1, 2, optional
        Return the range of each slice of the box along this axis.
    voxels : int or int array (slices,), optional
        Number of voxels that count, in total or per slice, such as those inside the mask. By default all
        voxels of the box.

    Returns
    -------
    low, high : float32 arrays
        Shape () or (slices,). The range includes zero if fewer voxels are non-zero than count. It is +inf
        and -inf if no voxel counts.

    Raises
    ------
    ValueError
        If non-zero voxels lie outside the box.
    """
    if any(facts.nonzero[k][s].sum() != facts.count for k, s in enumerate(box.slices)):
        raise ValueError(f"box {box.bounds} does not hold all non-zero voxels; ranges need the crop box")
    along = 0 if axis is None else axis
    slices = box.slices[along]
    low, high, nonzero = facts.low[along][slices], facts.high[along][slices], facts.nonzero[along][slices]
    if axis is None:
        low, high, nonzero = np.asarray(low.min()), np.asarray(high.max()), np.asarray(nonzero.sum())
    counted = np.asarray(box.size // low.size if voxels is None else voxels)
    zero = np.where(nonzero < counted, np.float32(0), np.float32(np.nan))  # fmin and fmax skip nan
    return np.asarray(np.fmin(low, zero)), np.asarray(np.fmax(high, zero))


def _split(joined: Array, shape: npt.ArrayLike) -> tuple[Array, Array, Array]:
    z, y, x = np.split(joined, np.cumsum(shape)[:2])
    return z, y, x
