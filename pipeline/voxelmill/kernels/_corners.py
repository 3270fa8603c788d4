"""The compiled pass of `resample_labels(method="linear")`: one output plane. Imports Numba."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np

_inline = numba.njit(nogil=True)  # no fast mathematics: SciPy's order of operations decides near ties


@_inline
def _winner(corner: Any, weight: Any, nearest: Any) -> Any:
    """Label with the largest summed weight; ties to that of corner `nearest`, else to the lowest."""
    best, label = -1.0, corner[0]
    near = -1.0
    for k in range(8):
        score = 0.0
        for j in range(8):
            if corner[j] == corner[k]:
                score += weight[j]
        if score > best or (score == best and corner[k] < label):
            best, label = score, corner[k]
        if k == nearest:
            near = score
    return corner[nearest] if near == best else label


def plane(  # type: ignore[no-untyped-def]
    front, back, wz0, wz1, near_z, y0, y1, wy0, wy1, near_y, x0, x1, wx0, wx1, near_x, target
):
    """One plane from the two input planes beside it; `near_*` says whether the upper neighbour is nearer."""
    width = front.shape[1]
    pure = np.empty(width, np.bool_)
    corner = np.empty(8, front.dtype)
    weight = np.empty(8)
    for o in range(len(y0)):
        a, b, c, d = front[y0[o]], front[y1[o]], back[y0[o]], back[y1[o]]
        for i in range(width):
            k = min(i + 1, width - 1)
            same = (a[i] == b[i]) & (a[i] == c[i]) & (a[i] == d[i])
            pure[i] = same & (a[i] == a[k]) & (a[i] == b[k]) & (a[i] == c[k]) & (a[i] == d[k])
        for p in range(len(x0)):
            i, k = x0[p], x1[p]
            if pure[i]:
                target[o, p] = a[i]
                continue
            corner[0], corner[1], corner[2], corner[3] = a[i], a[k], b[i], b[k]
            corner[4], corner[5], corner[6], corner[7] = c[i], c[k], d[i], d[k]
            u, v, r, s = wz0 * wy0[o], wz0 * wy1[o], wz1 * wy0[o], wz1 * wy1[o]
            weight[0], weight[1], weight[2], weight[3] = u * wx0[p], u * wx1[p], v * wx0[p], v * wx1[p]
            weight[4], weight[5], weight[6], weight[7] = r * wx0[p], r * wx1[p], s * wx0[p], s * wx1[p]
            target[o, p] = _winner(corner, weight, 4 * near_z + 2 * near_y[o] + near_x[p])


@cache
def compiled(itemsize: int) -> Any:
    """`plane` for int32 or int64 labels."""
    integer = numba.from_dtype(np.dtype(f"i{itemsize}"))
    index, real = numba.int64[::1], numba.float64[::1]
    side = (index, index, real, real, index)
    array = integer[:, ::1]
    signature = numba.void(array, array, numba.float64, numba.float64, numba.int64, *side, *side, array)
    return numba.njit(signature, nogil=True, cache=True)(plane)
