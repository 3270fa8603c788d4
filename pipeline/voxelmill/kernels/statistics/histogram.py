"""Histograms of stored values, exact for every type, and counts of labels.

In: slabs (z, y, x) of stored values and the foreground. Out: the count and the value of each bin. Integers of
at most 16 bits ("narrow" types) have one bin per stored value. Other types ("wide") are binned by their
float32 keys: by the high 16 bits in the first pass, and by the low 16 bits within chosen bins in a second
pass. This module knows no files, cases or percentiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import ValueRuleError
from voxelmill.kernels.numba_on_first_use import compiled
from voxelmill.kernels.statistics.voxel_values import (
    ZERO_KEY,
    Float32,
    is_narrow,
    keys_of,
    rescale,
    values_of,
)

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]

BINS = 65536

COUNTED = 2**16
"""Labels that are counted at a time; counting widens or sorts a copy of them."""


def bin_values(dtype: npt.DTypeLike, slope: float = 1.0, intercept: float = 0.0) -> Float32:
    """Return the values of the 65536 bins of a narrow type's histogram (integers of at most 16 bits)."""
    return rescale(np.arange(BINS) - key_offset(dtype), slope, intercept)


def histogram_values(
    histogram: Int64, dtype: npt.DTypeLike, slope: float = 1.0, intercept: float = 0.0
) -> tuple[Float32, Int64]:
    """Return values and counts of a narrow type's histogram, ascending in value, without empty bins."""
    bins = np.flatnonzero(histogram)
    if slope < 0:
        bins = bins[::-1]
    return bin_values(dtype, slope, intercept)[bins], histogram[bins]


def refine(
    data: Array, slope: float, intercept: float, foreground: Array | None, bins: npt.ArrayLike
) -> Int64:
    """Return the histogram of a wide type within some of its bins: the second, exact pass.

    Parameters
    ----------
    data, slope, intercept, foreground
        As for `ChannelFacts.add`; float32, or integers of more than 16 bits.
    bins : ascending integers
        Bins of `Facts.histogram` to resolve.

    Returns
    -------
    int64 array (len(bins), 65536)
        Row i, column j counts the foreground voxels with key ``bins[i] * 65536 + j``; 512 KiB per bin. The
        caller sums the arrays of all slabs.
    """
    bins = np.asarray(bins, np.int64)
    rows = np.full(BINS, -1, np.int64)
    rows[bins] = np.arange(len(bins))
    counts = np.zeros((len(bins), BINS), np.int64)
    for i, stored in enumerate(data):
        values = np.ascontiguousarray(rescale(stored, slope, intercept))
        inside = values != 0 if foreground is None else foreground[i] != 0
        _refine_plane(keys_of(values), np.ascontiguousarray(inside & np.isfinite(values)), rows, counts)
    return counts


def refined_values(bins: npt.ArrayLike, counts: Int64) -> tuple[Float32, Int64]:
    """Return values and counts of a refined histogram, ascending in value, without empty bins."""
    row, column = np.nonzero(counts)
    return values_of(np.asarray(bins, np.uint32)[row] * BINS + column.astype(np.uint32)), counts[row, column]


def class_counts(labels: Array) -> dict[int, int]:
    """Return the number of voxels of each label, ascending in label.

    Parameters
    ----------
    labels : integer array, any shape

    Raises
    ------
    ValueRuleError
        If the labels are not integers.
    """
    if labels.dtype.kind not in "biu":
        raise ValueRuleError(f"labels are {labels.dtype}; integers are needed. Convert the label image.")
    counts: dict[int, int] = {}
    for plane in labels if labels.ndim > 1 else [labels]:
        flat = plane.ravel()
        for start in range(0, flat.size, COUNTED):
            for label, n in zip(*_part_counts(flat[start : start + COUNTED]), strict=True):
                counts[label] = counts.get(label, 0) + n
    return dict(sorted(counts.items()))


def key_offset(dtype: npt.DTypeLike) -> int:
    """Return the offset that turns a stored value of at most 16 bits into its key."""
    return BINS // 2 if np.dtype(dtype).kind == "i" else 0


def zero_keys(dtype: npt.DTypeLike, slope: float, intercept: float) -> tuple[int, int]:
    """Return the first and last key whose value is zero; if there is none, an empty range."""
    if not is_narrow(dtype):
        return ZERO_KEY, ZERO_KEY
    zeros = np.flatnonzero(bin_values(dtype, slope, intercept) == 0)
    return (int(zeros[0]), int(zeros[-1])) if len(zeros) else (BINS - 1, 0)


def _part_counts(labels: Array) -> tuple[list[int], list[int]]:
    """Return labels and their counts in part of a slice: by a table for small labels, else by sorting."""
    if labels.size and labels.min() >= 0 and labels.max() < BINS:
        table = np.bincount(labels.ravel().astype(np.intp, copy=False))
        found = np.flatnonzero(table)
        return found.tolist(), table[found].tolist()
    found, counts = np.unique(labels, return_counts=True)
    return found.tolist(), counts.tolist()


@compiled
def _refine_plane(keys: Array, inside: Array, rows: Array, counts: Array) -> None:
    """Count the low halves of the keys whose high half has a row."""
    for y in range(keys.shape[0]):
        for x in range(keys.shape[1]):
            if inside[y, x]:
                row = rows[keys[y, x] >> 16]
                if row >= 0:
                    counts[row, keys[y, x] & 0xFFFF] += 1
