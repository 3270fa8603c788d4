"""The compiled passes of `resample`: planes and columns of one volume. Imports Numba.

Along one axis, a piece of at most 64 output voxels is computed from a window of the input: the window is
loaded, the spline's recursion runs forwards and backwards through it, and each output row is a sum of four
weighted rows. All loops run along contiguous voxels in the first caches; x becomes the slow axis of a plane by
transposing it. The arithmetic of a piece depends on nothing but its window, so cutting changes no bit.
"""

from __future__ import annotations

from typing import Any

import numba

_FUSED = {"contract"}  # a * b + c is rounded once; sums are never reordered
_inline = numba.njit(fastmath=_FUSED, nogil=True)
_STRIP = 512  # voxels of a row of the column buffer
SLAB = 1 << 22  # voxels between the two sweeps


@_inline
def _window(source: Any, at: int, pitch: int, low: int, last: int, rows: int, pole: Any, shift: Any, held: Any) -> None:
    """Hold rows from `low` on (the ends repeated) less `shift`, and make them spline coefficients.

    The recursion of M. Unser, A. Aldroubi and M. Eden, IEEE TPAMI 13(3), 1991, without its gain, on a signal
    that stays constant beyond both ends of the window.
    """
    width, one = held.shape[1], held.dtype.type(1)
    for r in range(rows):
        row = at + min(max(low + r, 0), last) * pitch
        if pole == 0:
            for j in range(width):
                held[r, j] = source[row + j] - shift
        elif r == 0:
            steady = one / (one - pole)
            for j in range(width):
                held[r, j] = (source[row + j] - shift) * steady
        else:
            for j in range(width):
                held[r, j] = (source[row + j] - shift) + pole * held[r - 1, j]
    if pole != 0:
        row = at + min(max(low + rows - 1, 0), last) * pitch
        fading = pole / (pole * pole - one)
        steady = pole * pole / ((one - pole) * (pole * pole - one))
        for j in range(width):
            held[rows - 1, j] = fading * held[rows - 1, j] + steady * (source[row + j] - shift)
        for r in range(rows - 2, -1, -1):
            for j in range(width):
                held[r, j] = pole * (held[r + 1, j] - held[r, j])


@_inline
def _row(held: Any, k: int, weights: Any, o: int, shift: Any, low: Any, high: Any, target: Any, at: int) -> None:
    """One output row: weighted rows of `held`, the middle of the range added back, clipped."""
    width, zero = held.shape[1], held.dtype.type(0)
    w, x, y, z = weights[o, 0], weights[o, 1], weights[o, 2], weights[o, 3]
    if weights.shape[1] == 4:
        for j in range(width):
            total = zero + w * held[k, j] + x * held[k + 1, j] + y * held[k + 2, j] + z * held[k + 3, j]
            target[at + j] = min(max(total + shift, low), high)
        return
    for j in range(width):
        target[at + j] = w * held[k, j]
    for t in range(1, weights.shape[1]):
        w = weights[o, t]
        for j in range(width):
            target[at + j] = target[at + j] + w * held[k + t, j]
    for j in range(width):
        target[at + j] = min(max(target[at + j] + shift, low), high)


@_inline
def _sum(held: Any, pieces: Any, p: int, first: Any, weights: Any, shift: Any, low: Any, high: Any, target: Any, at: int, pitch: int) -> None:
    """The output rows of piece `p`."""
    for o in range(pieces[p, 0], pieces[p, 1]):
        _row(held, first[o] - pieces[p, 2], weights, o, shift, low, high, target, at + o * pitch)


@_inline
def _transpose(source: Any, at: int, pitch: int, n: int, m: int, shift: Any, low: Any, high: Any, target: Any, to: int, step: int) -> None:
    """``target[j, i] = source[i, j]`` plus `shift`, clipped, for n rows of m; eight rows at a time."""
    for i in range(0, n - n % 8, 8):
        a = at + i * pitch
        b, c, d, e = a + pitch, a + 2 * pitch, a + 3 * pitch, a + 4 * pitch
        f, g, h = a + 5 * pitch, a + 6 * pitch, a + 7 * pitch
        for j in range(m):
            t = to + j * step + i
            target[t] = source[a + j]
            target[t + 1] = source[b + j]
            target[t + 2] = source[c + j]
            target[t + 3] = source[d + j]
            target[t + 4] = source[e + j]
            target[t + 5] = source[f + j]
            target[t + 6] = source[g + j]
            target[t + 7] = source[h + j]
    for i in range(n - n % 8, n):
        for j in range(m):
            target[to + j * step + i] = source[at + i * pitch + j]
