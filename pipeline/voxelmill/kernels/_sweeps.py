"""The compiled passes of `resample`: one volume's planes, or its columns. Imports Numba.

Every output voxel is summed over its taps in one fixed order, whatever box is computed and wherever the voxel
lies in a vector register, so that cutting a volume into boxes changes no bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np

_FUSED = {"contract", "nsz"}  # a * b + c in one rounding; sums are never reordered
_inline = numba.njit(fastmath=_FUSED, nogil=True, inline="never")


@_inline
def _row(source: Any, first: int, weights: Any, row: Any) -> None:
    """``row = weights @ source[first:]``: a sum of a few rows of voxels."""
    n, taps = len(row), len(weights)
    if taps == 1:
        row[:] = source[first][:n]
    elif taps == 2:
        a, b = source[first], source[first + 1]
        p, q = weights[0], weights[1]
        for j in range(n):
            row[j] = p * a[j] + q * b[j]
    else:
        row[:] = 0
        for t in range(0, taps, 4):
            k = first + t
            a, b, c, d = source[k], source[k + 1], source[k + 2], source[k + 3]
            p, q, r, s = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
            for j in range(n):
                row[j] = row[j] + p * a[j] + q * b[j] + r * c[j] + s * d[j]


@_inline
def _transpose(source: Any, target: Any) -> None:
    """``target[:] = source.T``, eight rows at a time."""
    n, m = source.shape
    for i in range(0, n - n % 8, 8):
        a, b, c, d = source[i], source[i + 1], source[i + 2], source[i + 3]
        e, f, g, h = source[i + 4], source[i + 5], source[i + 6], source[i + 7]
        for j in range(m):
            t = target[j]
            t[i], t[i + 1], t[i + 2], t[i + 3] = a[j], b[j], c[j], d[j]
            t[i + 4], t[i + 5], t[i + 6], t[i + 7] = e[j], f[j], g[j], h[j]
    for i in range(n - n % 8, n):
        for j in range(m):
            target[j, i] = source[i, j]


@_inline
def _finish(row: Any, shift: Any, low: Any, high: Any, target: Any) -> None:
    """Add the middle of the range back and clip."""
    for j in range(len(row)):
        target[j] = min(max(row[j] + shift, low), high)


@_inline
def _rows(source: Any, first: Any, weights: Any, target: Any) -> None:
    for o in range(len(first)):
        _row(source, first[o], weights[o], target[o])


def columns(source, first, weights, before, after, low, high, target):  # type: ignore[no-untyped-def]
    """Along axis 0: ``target[o, y, x] = sum_t weights[o, t] * (source[first[o] + t, y, x] - before)``."""
    n, height, width = source.shape
    strip = 256
    buffer = np.zeros((max(n, weights.shape[1]), strip), source.dtype)
    row = np.empty(strip, source.dtype)
    for y in range(height):
        for x0 in range(0, width, strip):
            x1 = min(x0 + strip, width)
            for i in range(n):
                line, packed = source[i, y, x0:x1], buffer[i]
                for j in range(x1 - x0):
                    packed[j] = line[j] - before[0]
            for o in range(len(first)):
                _row(buffer, first[o], weights[o], row[: x1 - x0])
                _finish(row[: x1 - x0], after[0], low[0], high[0], target[o, y, x0:x1])


def planes(  # type: ignore[no-untyped-def]
    source, y_first, y_weights, x_first, x_weights, y_leads, before, after, low, high, target
):
    """Along axes 1 and 2, plane by plane; ``low[i]`` and ``high[i]`` clip plane ``i``."""
    n, height, width = source.shape
    rows, cols = len(y_first), len(x_first)
    tall, wide = max(height, y_weights.shape[1]), max(width, x_weights.shape[1])
    plane = np.zeros((tall, width), source.dtype)
    line = np.empty(cols, source.dtype)
    between = rows if y_leads else height
    turned = np.zeros((wide, between), source.dtype)
    summed = np.empty((cols, between), source.dtype)
    turned_back = np.zeros((max(between, y_weights.shape[1]), cols), source.dtype)
    for i in range(n):
        for y in range(height):
            given, kept = source[i, y], plane[y]
            for j in range(width):
                kept[j] = given[j] - before[0]
        if y_leads:
            led = np.empty((rows, width), source.dtype)
            _rows(plane, y_first, y_weights, led)
            _transpose(led, turned[:width])
        else:
            _transpose(plane[:height], turned[:width])
        _rows(turned, x_first, x_weights, summed)
        _transpose(summed, turned_back[:between])
        for o in range(rows):
            if y_leads:
                _finish(turned_back[o], after[0], low[i], high[i], target[i, o])
            else:
                _row(turned_back, y_first[o], y_weights[o], line)
                _finish(line, after[0], low[i], high[i], target[i, o])


@cache
def compiled(name: str, itemsize: int) -> Any:
    """`columns` or `planes` for one float type, on arrays of any strides."""
    real = numba.from_dtype(np.dtype(f"f{itemsize}"))
    volume, matrix, row = real[:, :, :], real[:, ::1], real[::1]
    first = numba.int64[::1]
    if name == "columns":
        arguments: tuple[Any, ...] = (volume, first, matrix, row, row, row, row, volume)
    else:
        arguments = (volume, first, matrix, first, matrix, numba.boolean, row, row, row, row, volume)
    signature = numba.void(*arguments)
    return numba.njit(signature, fastmath=_FUSED, nogil=True, cache=True)(globals()[name])
