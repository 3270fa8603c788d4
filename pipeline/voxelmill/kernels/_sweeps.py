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
from numpy.lib.stride_tricks import as_strided

_FUSED = {"contract"}  # a * b + c is rounded once; sums are never reordered
_inline = numba.njit(fastmath=_FUSED, nogil=True)
_STRIP = 1024  # voxels of a row of the column buffer
SLAB = 1 << 22  # voxels between the two sweeps

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


def columns(source, size, first, weights, before, after, low, high, target, grid):  # type: ignore[no-untyped-def]
    """Along axis 0, strip by strip: each strip is copied so that its column lies close together."""
    n, height, width, plane, pitch = size
    parts = -(-width // _STRIP)
    across = -(-width // parts)
    down = max(1, _STRIP // across)
    buffer = np.zeros((max(n, weights.shape[1]), across * down), target.dtype)
    line = np.empty((1, across * down), target.dtype)
    for y0 in range(0, height, down):
        tall = min(down, height - y0)
        for x0 in range(0, width, across):
            wide = min(across, width - x0)
            for i in range(n):
                for y in range(tall):
                    at = i * plane + (y0 + y) * pitch + x0
                    _load(source[at : at + wide], before[0], buffer[i, y * wide : (y + 1) * wide])
            for o in range(len(first)):
                _row(buffer, first[o], weights, o, line, 0, tall * wide)
                for y in range(tall):
                    at = o * grid[3] + (y0 + y) * grid[4] + x0
                    part = line[0, y * wide : (y + 1) * wide]
                    _finish(part, after[0], low[0], high[0], target[at : at + wide])


def planes(  # type: ignore[no-untyped-def]
    source, size, y_first, y_weights, x_first, x_weights, y_leads, before, after, low, high, target, grid
):
    """Along axes 1 and 2, plane by plane; ``low[i]`` and ``high[i]`` clip plane ``i``."""
    n, height, width = size[:3]
    rows, cols = len(y_first), len(x_first)
    between = rows if y_leads else height
    plane = np.zeros((max(height, y_weights.shape[1]), width), target.dtype)
    led = np.empty((between, width), target.dtype)
    turned = np.zeros((max(width, x_weights.shape[1]), between), target.dtype)
    summed = np.empty((cols, between), target.dtype)
    back = np.zeros((max(between, y_weights.shape[1]), cols), target.dtype)
    line = np.empty((1, cols), target.dtype)
    for i in range(n):
        for y in range(height):
            at = i * size[3] + y * size[4]
            _load(source[at : at + width], before[0], plane[y])
        if y_leads:
            _rows(plane, y_first, y_weights, led)
            _transpose(led, turned)
        else:
            _transpose(plane[:height], turned)
        _rows(turned, x_first, x_weights, summed)
        _transpose(summed, back)
        for o in range(rows):
            at = i * grid[3] + o * grid[4]
            if y_leads:
                _finish(back[o], after[0], low[i], high[i], target[at : at + cols])
            else:
                _row(back, y_first[o], y_weights, o, line, 0, cols)
                _finish(line[0], after[0], low[i], high[i], target[at : at + cols])


@cache
def compiled(name: str, itemsize: int) -> Any:
    """`columns` or `planes` for one float type."""
    real = numba.from_dtype(np.dtype(f"f{itemsize}"))
    voxels, row, whole = numba.types.Array(real, 1, "C", readonly=True), real[::1], numba.int64
    size = numba.types.UniTuple(whole, 5)
    step = (whole[::1], real[:, ::1])
    steps = (*step, *step, numba.boolean) if name == "planes" else step
    signature = numba.void(voxels, size, *steps, row, row, row, row, row, size)
    return numba.njit(signature, fastmath=_FUSED, nogil=True, cache=True)(globals()[name])


def _is_plain(volume: Any) -> bool:
    """x is contiguous, and z and y ascend in memory by whole voxels."""
    steps_well = all(step >= 0 and step % volume.itemsize == 0 for step in volume.strides[:2])
    return steps_well and volume.strides[2] == volume.itemsize


def _memory(volume: Any) -> tuple[Any, tuple[int, ...]]:
    """The voxels as one stretch of memory; shape, plane stride and row stride. x must be contiguous."""
    strides = [step // volume.itemsize for step in volume.strides[:2]]
    length = volume.shape[2] + sum((n - 1) * step for n, step in zip(volume.shape, strides, strict=False))
    return as_strided(volume, (length,), (volume.itemsize,)), (*volume.shape, *strides)


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

    The volume between the two is held for a slab of the output only. A volume whose rows are not
    contiguous (a separate axis x) is copied. `low` and `high` have one entry, or one
    for each plane of `volume` when axis 0 is `separate`.
    """
    if not _is_plain(out):
        whole = np.empty(out.shape, out.dtype)
        sweep(volume, steps, factors, separate, low, high, middle, whole)
        out[...] = whole
        return
    volume = volume if _is_plain(volume) else np.ascontiguousarray(volume)
    dtype = out.dtype
    plane_pass, column_pass = (compiled(name, dtype.itemsize) for name in ("planes", "columns"))
    z, y, x = steps
    y_leads = factors[1] < 2 * factors[2]
    none, shift = np.zeros(1, dtype), np.full(1, middle, dtype)
    free = np.full(max(len(volume), len(z[0])), np.inf, dtype)
    if factors[0] < 1 and not separate:
        low, high = np.full(len(out), low[0]), np.full(len(out), high[0])
        size = volume.shape[1] * volume.shape[2]
        held = np.empty(_slab_rows(z, size) * size, dtype)
        for part, rows, span in _slabs(z, size):
            between = held[: len(rows[0]) * size].reshape(-1, *volume.shape[1:])
            column_pass(*_memory(volume[span]), *rows, shift, none, -free, free, *_memory(between))
            plane_pass(*_memory(between), *y, *x, y_leads, none, shift, low, high, *_memory(out[part]))
        return
    inner = (low - middle, high - middle) if separate else (-free, free)
    outer = (-free, free) if separate else (low, high)
    size = len(volume) * len(x[0])
    held = np.empty(_slab_rows(y, size) * size, dtype)
    for part, rows, span in _slabs(y, size):
        between = held[: len(rows[0]) * size].reshape(len(volume), -1, len(x[0]))
        source = _memory(volume[:, span])
        plane_pass(*source, *rows, *x, y_leads, shift, none, *inner, *_memory(between))
        column_pass(*_memory(between), *z, none, shift, *outer, *_memory(out[:, part]))


def _slab_rows(step: Step, voxels: int) -> int:
    """Output rows of a slab whose volume between the sweeps has `voxels` a row."""
    return min(len(step[0]), max(16, SLAB // voxels))


def _slabs(step: Step, voxels: int) -> Iterator[tuple[slice, Step, slice]]:
    """Output rows, their step and the input rows they need, such that a slab's volume stays small."""
    first, weights = step
    rows = _slab_rows(step, voxels)
    for start in range(0, len(first), rows):
        part = slice(start, min(start + rows, len(first)))
        begin, end = int(first[start]), int(first[part][-1]) + weights.shape[1]
        yield part, (first[part] - begin, weights[part]), slice(begin, end)
