"""The compiled passes of `resample`: planes and columns of one volume. Imports Numba.

A sweep is a sum of at most a few dozen weighted rows of contiguous voxels, held in the first cache; the axis
x is turned into rows and back by transposing one plane. Every output voxel adds its taps in one fixed order,
whatever box is computed and wherever the voxel lies in a vector register, so cutting changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numba
import numpy as np

_FUSED = {"contract"}  # a * b + c is rounded once; sums are never reordered
_inline = numba.njit(fastmath=_FUSED, nogil=True)
_STRIP = 1024  # voxels of a row of the column buffer
SLAB = 1 << 23  # voxels between the two sweeps

Step = tuple[Any, Any]
"""First input voxel (rows,) and weights (rows, taps) of each output row of one axis."""


@_inline
def _row(source: Any, first: int, weights: Any, o: int, target: Any, r: int, n: int) -> None:
    """``target[r, :n] = weights[o] @ source[first:, :n]``: 1, 2, or a multiple of 12 weighted rows."""
    taps = weights.shape[1]
    if taps == 1:
        for j in range(n):
            target[r, j] = source[first, j]
    elif taps == 2:
        w0, w1 = weights[o, 0], weights[o, 1]
        for j in range(n):
            target[r, j] = w0 * source[first, j] + w1 * source[first + 1, j]
    else:
        for j in range(n):
            target[r, j] = 0
        for t in range(0, taps, 12):
            i = first + t
            w0, w1, w2, w3 = weights[o, t], weights[o, t + 1], weights[o, t + 2], weights[o, t + 3]
            w4, w5, w6, w7 = weights[o, t + 4], weights[o, t + 5], weights[o, t + 6], weights[o, t + 7]
            w8, w9, wa, wb = weights[o, t + 8], weights[o, t + 9], weights[o, t + 10], weights[o, t + 11]
            for j in range(n):
                a = target[r, j] + w0 * source[i, j] + w1 * source[i + 1, j] + w2 * source[i + 2, j]
                b = a + w3 * source[i + 3, j] + w4 * source[i + 4, j] + w5 * source[i + 5, j]
                c = b + w6 * source[i + 6, j] + w7 * source[i + 7, j] + w8 * source[i + 8, j]
                target[r, j] = c + w9 * source[i + 9, j] + wa * source[i + 10, j] + wb * source[i + 11, j]


@_inline
def _rows(source: Any, first: Any, weights: Any, target: Any) -> None:
    for o in range(len(first)):
        _row(source, first[o], weights, o, target, o, target.shape[1])


@_inline
def _transpose(source: Any, target: Any) -> None:
    """``target[:] = source.T``, eight rows at a time."""
    n, m = source.shape
    for i in range(0, n - n % 8, 8):
        a, b, c, d = source[i], source[i + 1], source[i + 2], source[i + 3]
        e, f, g, h = source[i + 4], source[i + 5], source[i + 6], source[i + 7]
        for j in range(m):
            target[j, i], target[j, i + 1], target[j, i + 2], target[j, i + 3] = a[j], b[j], c[j], d[j]
            target[j, i + 4], target[j, i + 5], target[j, i + 6], target[j, i + 7] = e[j], f[j], g[j], h[j]
    for i in range(n - n % 8, n):
        for j in range(m):
            target[j, i] = source[i, j]


@_inline
def _load(given: Any, shift: Any, kept: Any) -> None:
    """Subtract the middle of the range."""
    for j in range(len(kept)):
        kept[j] = given[j] - shift


@_inline
def _finish(row: Any, shift: Any, low: Any, high: Any, target: Any) -> None:
    """Add the middle of the range back and clip."""
    for j in range(len(row)):
        target[j] = min(max(row[j] + shift, low), high)


def columns(source, first, weights, before, after, low, high, target):  # type: ignore[no-untyped-def]
    """Along axis 0, strip by strip: each strip is copied so that its column lies close together."""
    n, height, width = source.shape
    parts = -(-width // _STRIP)
    across = -(-width // parts)
    down = max(1, _STRIP // across)
    buffer = np.zeros((max(n, weights.shape[1]), across * down), source.dtype)
    line = np.empty((1, across * down), source.dtype)
    for y0 in range(0, height, down):
        tall = min(down, height - y0)
        for x0 in range(0, width, across):
            wide = min(across, width - x0)
            for i in range(n):
                for y in range(tall):
                    _load(source[i, y0 + y, x0 : x0 + wide], before[0], buffer[i, y * wide : (y + 1) * wide])
            for o in range(len(first)):
                _row(buffer, first[o], weights, o, line, 0, tall * wide)
                for y in range(tall):
                    part = line[0, y * wide : (y + 1) * wide]
                    _finish(part, after[0], low[0], high[0], target[o, y0 + y, x0 : x0 + wide])


def planes(  # type: ignore[no-untyped-def]
    source, y_first, y_weights, x_first, x_weights, y_leads, before, after, low, high, target
):
    """Along axes 1 and 2, plane by plane; ``low[i]`` and ``high[i]`` clip plane ``i``."""
    n, height, width = source.shape
    rows, cols = len(y_first), len(x_first)
    between = rows if y_leads else height
    plane = np.zeros((max(height, y_weights.shape[1]), width), source.dtype)
    led = np.empty((between, width), source.dtype)
    turned = np.zeros((max(width, x_weights.shape[1]), between), source.dtype)
    summed = np.empty((cols, between), source.dtype)
    back = np.zeros((max(between, y_weights.shape[1]), cols), source.dtype)
    line = np.empty((1, cols), source.dtype)
    for i in range(n):
        for y in range(height):
            _load(source[i, y], before[0], plane[y])
        if y_leads:
            _rows(plane, y_first, y_weights, led)
            _transpose(led, turned)
        else:
            _transpose(plane[:height], turned)
        _rows(turned, x_first, x_weights, summed)
        _transpose(summed, back)
        for o in range(rows):
            if y_leads:
                _finish(back[o], after[0], low[i], high[i], target[i, o])
            else:
                _row(back, y_first[o], y_weights, o, line, 0, cols)
                _finish(line[0], after[0], low[i], high[i], target[i, o])


@cache
def compiled(name: str, itemsize: int) -> Any:
    """`columns` or `planes` for one float type, on arrays of any strides."""
    real = numba.from_dtype(np.dtype(f"f{itemsize}"))
    volume, matrix, row = real[:, :, :], real[:, ::1], real[::1]
    step = (numba.int64[::1], matrix)
    steps = (*step, *step, numba.boolean) if name == "planes" else step
    signature = numba.void(volume, *steps, row, row, row, row, volume)
    return numba.njit(signature, fastmath=_FUSED, nogil=True, cache=True)(globals()[name])


def sweep(
    volume: Any,
    steps: list[Step],
    factors: list[float],
    separate: bool,
    low: Any,
    high: Any,
    middle: Any,
    out: Any,
) -> None:
    """Resample one volume: planes then columns, or columns then planes where axis 0 shrinks.

    The volume between the two is held for a slab of the output only. `low` and `high` have one entry, or one
    for each plane of `volume` when axis 0 is `separate`.
    """
    dtype = out.dtype
    plane_pass, column_pass = (compiled(name, dtype.itemsize) for name in ("planes", "columns"))
    z, y, x = steps
    y_leads = factors[1] < 2 * factors[2]
    none, shift = np.zeros(1, dtype), np.full(1, middle, dtype)
    free = np.full(max(len(volume), len(z[0])), np.inf, dtype)
    if factors[0] < 1 and not separate:
        low, high = np.full(len(out), low[0]), np.full(len(out), high[0])
        for part, rows, span in _slabs(z, volume.shape[1] * volume.shape[2]):
            between = np.empty((len(rows[0]), *volume.shape[1:]), dtype)
            column_pass(volume[span], *rows, shift, none, -free, free, between)
            plane_pass(between, *y, *x, y_leads, none, shift, low, high, out[part])
        return
    inner = (low - middle, high - middle) if separate else (-free, free)
    outer = (-free, free) if separate else (low, high)
    for part, rows, span in _slabs(y, len(volume) * len(x[0])):
        between = np.empty((len(volume), len(rows[0]), len(x[0])), dtype)
        plane_pass(volume[:, span], *rows, *x, y_leads, shift, none, *inner, between)
        column_pass(between, *z, none, shift, *outer, out[:, part])


def _slabs(step: Step, voxels: int) -> Iterator[tuple[slice, Step, slice]]:
    """Output rows, their step and the input rows they need, such that a slab's volume stays small."""
    first, weights = step
    rows = max(16, SLAB // voxels)
    for start in range(0, len(first), rows):
        part = slice(start, min(start + rows, len(first)))
        begin = int(first[start])
        yield (
            part,
            (first[part] - begin, weights[part]),
            slice(begin, int(first[part][-1]) + weights.shape[1]),
        )
