"""The compiled pass of `resample_labels(method="linear")`: one output plane. This module imports Numba."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np

from voxelmill.kernels.numba_on_first_use import compile_now

_inline = numba.njit(nogil=True)  # without fastmath: SciPy's order of operations decides near ties


@_inline
def _winner(corner, weight, nearest, near):  # type: ignore[no-untyped-def]
    """Return the label with the largest summed weight; a tie goes to corner `nearest`, else to the lowest."""
    best, winner, counted = near, corner[nearest], 0
    for k in range(8):
        if counted >> k & 1:
            continue
        label, score = corner[k], 0.0
        for j in range(8):  # adding 0 for another label changes no sum
            hit = corner[j] == label
            score += weight[j] if hit else 0.0
            counted |= hit << j
        if score > best or (score == best and best > near and label < winner):
            best, winner = score, label
    return winner


@_inline
def _score(a, b, c, d, i, k, q, r, s, t, u, v, label):  # type: ignore[no-untyped-def]
    """Return the summed weight of one label at the 8 corners, in SciPy's order."""
    score = q * u if a[i] == label else 0.0
    score += q * v if a[k] == label else 0.0
    score += r * u if b[i] == label else 0.0
    score += r * v if b[k] == label else 0.0
    score += s * u if c[i] == label else 0.0
    score += s * v if c[k] == label else 0.0
    score += t * u if d[i] == label else 0.0
    score += t * v if d[k] == label else 0.0
    return score


@_inline
def _pure_cells(a, b, c, d, same, pure):  # type: ignore[no-untyped-def]
    """Mark the cells whose 8 corners agree; return whether the whole row has one label."""
    n = len(a)
    for i in range(n):
        same[i] = (a[i] == b[i]) & (a[i] == c[i]) & (a[i] == d[i])
    mixed = 0
    for i in range(n - 1):
        pure[i] = same[i] & same[i + 1] & (a[i] == a[i + 1])
        mixed += not pure[i]
    pure[n - 1] = same[n - 1]
    return mixed == 0 and same[n - 1]


def plane(  # type: ignore[no-untyped-def]
    front, back, wz0, wz1, near_z, y0, y1, wy0, wy1, near_y, x0, x1, wx0, wx1, near_x, target
):
    """Compute one plane from its two neighbours; `near_*` is 1 where the upper neighbour is nearer."""
    width = front.shape[1]
    same, pure = np.empty(width, np.bool_), np.empty(width, np.bool_)
    corner, weight = np.empty(8, front.dtype), np.empty(8)
    for o in range(len(y0)):
        a, b, c, d = front[y0[o]], front[y1[o]], back[y0[o]], back[y1[o]]
        row = target[o]
        if _pure_cells(a, b, c, d, same, pure):
            for p in range(len(row)):
                row[p] = a[0]
            continue
        q, r, s, t = wz0 * wy0[o], wz0 * wy1[o], wz1 * wy0[o], wz1 * wy1[o]
        nearest = 2 * near_z + near_y[o]
        line = a if nearest == 0 else b if nearest == 1 else c if nearest == 2 else d
        for p in range(len(row)):
            i, k = x0[p], x1[p]
            if pure[i]:
                row[p] = a[i]
                continue
            u, v, label = wx0[p], wx1[p], line[k if near_x[p] else i]
            near = _score(a, b, c, d, i, k, q, r, s, t, u, v, label)
            if near > 0.5001:  # the weights add up to 1, so no other label can win
                row[p] = label
                continue
            corner[0], corner[1], corner[2], corner[3] = a[i], a[k], b[i], b[k]
            corner[4], corner[5], corner[6], corner[7] = c[i], c[k], d[i], d[k]
            weight[0], weight[1], weight[2], weight[3] = q * u, q * v, r * u, r * v
            weight[4], weight[5], weight[6], weight[7] = s * u, s * v, t * u, t * v
            row[p] = _winner(corner, weight, 2 * nearest + near_x[p], near)


@cache
def compiled(itemsize: int) -> Any:
    """Return `plane`, compiled for int32 or int64 labels."""
    integer = numba.from_dtype(np.dtype(f"i{itemsize}"))
    index, real = numba.int64[::1], numba.float64[::1]
    side = (index, index, real, real, index)
    labels = integer[:, ::1]
    signature = numba.void(labels, labels, numba.float64, numba.float64, numba.int64, *side, *side, labels)
    return compile_now(plane, signature)
