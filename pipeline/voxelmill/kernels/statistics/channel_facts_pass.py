"""The compiled pass over the voxels of one slice, for `ChannelFacts`.

In: one slice as 16- or 32-bit words. Out: facts, added to the arrays given. This module knows only keys:
unsigned numbers in the order of the values, see `voxel_values`. The caller converts them to values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.kernels.numba_on_first_use import compiled
from voxelmill.kernels.statistics.voxel_values import FIRST_FINITE_KEY, LAST_FINITE_KEY, ZERO_KEY

Array = npt.NDArray[Any]


@compiled
def scan_plane(
    bits: Array,
    values: Array | None,
    inside: Array,
    masked: bool,
    z: int,
    depth: int,
    zeros: tuple[int, int],
    flip: int,
    low: Array,
    high: Array,
    nonzero: Array,
    extent: Array,
    sums: Array,
    histogram: Array,
) -> int:
    """Add one slice to all facts and return the number of its voxels that are not finite.

    Each row is first converted to keys, then evaluated. All loops except the histogram's vectorise, because
    they run along x and keep sums and extremes in arrays along x. `values` is None for narrow types: their
    keys are summed, and the sums of their foreground are computed from the histogram later.
    """
    rows, columns = bits.shape
    wide = bits.itemsize == 4
    unsigned, nought = bits.dtype.type, sums.dtype.type(0)
    top, bottom = unsigned(0xFFFFFFFF), unsigned(0)
    first, last = unsigned(zeros[0]), unsigned(zeros[1])
    lowest, highest = unsigned(FIRST_FINITE_KEY if wide else 0), unsigned(LAST_FINITE_KEY if wide else 0xFFFF)
    turn, minus_zero = unsigned(flip), unsigned(ZERO_KEY)  # in 16 bits minus_zero is 0 and has no effect
    low_x, high_x, nonzero_x = low[depth + rows :], high[depth + rows :], nonzero[depth + rows :]
    inside_low, inside_high = extent[0], extent[1]
    total, squares, inside_total, inside_squares = sums[0], sums[1], sums[2], sums[3]
    keys, taken = np.empty(columns, bits.dtype), np.empty(columns, np.bool_)
    plane_low, plane_high, plane_nonzero, bad = top, bottom, 0, 0
    for y in range(rows):
        for x in range(columns):
            word = bits[y, x]
            word = bottom if word == minus_zero else word
            key = unsigned(word ^ (turn | unsigned(top * unsigned(word >> 31))))
            finite = (key >= lowest) & (key <= highest)
            keys[x] = key if finite else first  # a non-finite voxel counts as zero
            bad += 0 if finite else 1
            taken[x] = finite & (inside[y, x] if masked else (key < first) | (key > last))
        # Extremes, sums and the foreground have separate loops, so that each of them vectorises.
        row_low, row_high, row_nonzero = top, bottom, 0
        for x in range(columns):
            key = keys[x]
            zero = key >= first and key <= last
            lower, higher = top if zero else key, bottom if zero else key
            low_x[x] = lower if lower < low_x[x] else low_x[x]
            high_x[x] = higher if higher > high_x[x] else high_x[x]
            row_low = lower if lower < row_low else row_low
            row_high = higher if higher > row_high else row_high
        for x in range(columns):
            zero = keys[x] >= first and keys[x] <= last
            value = nought + keys[x] if values is None else nought + values[y, x]
            value = nought if zero else value
            nonzero_x[x] += 0 if zero else 1
            row_nonzero += 0 if zero else 1
            total[x] += value
            squares[x] += value * value
        if values is not None:
            for x in range(columns):
                lower, higher = keys[x] if taken[x] else top, keys[x] if taken[x] else bottom
                inside_low[x] = lower if lower < inside_low[x] else inside_low[x]
                inside_high[x] = higher if higher > inside_high[x] else inside_high[x]
                value = nought + values[y, x] if taken[x] else nought
                inside_total[x] += value
                inside_squares[x] += value * value
        for x in range(columns):
            if taken[x]:
                histogram[keys[x] >> (16 if wide else 0)] += 1
        low[depth + y], high[depth + y] = min(low[depth + y], row_low), max(high[depth + y], row_high)
        nonzero[depth + y] += row_nonzero
        plane_low, plane_high = min(plane_low, row_low), max(plane_high, row_high)
        plane_nonzero += row_nonzero
    low[z], high[z], nonzero[z] = plane_low, plane_high, plane_nonzero
    return bad
