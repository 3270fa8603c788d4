"""The compiled passes of `resample`: planes and columns of one volume. This module imports Numba.

Along one axis, a piece of at most 64 output voxels is computed from a window of the input: the window is
loaded, the spline recursion runs forwards and backwards through it, and each output row is a sum of four
weighted rows. All loops run along contiguous voxels that stay in the L1 or L2 cache; planes are transposed
to resample along x. A piece depends on its window only, so computing a volume in boxes changes no bit.

Measured on one core of a busy two-core machine, (96, 256, 256) to (128, 320, 320), output Mvoxel/s: 190 for
matrix products of 32 rows of W, 210 for compiled sums of 24 weighted rows, 320 for this recursion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided

from voxelmill.kernels.numba_on_first_use import compile_now
from voxelmill.kernels.resampling.axis_matrix import GRID, SHORT, SLAB, Step

_FUSED = {"contract"}  # a * b + c is rounded once; sums are never reordered
_inline = numba.njit(fastmath=_FUSED, nogil=True, error_model="numpy")
_STRIP = 1024  # voxels in a row of the column buffer
_TOP = np.int64(0)  # not the literal 0, for which Numba would compile every function a second time


@_inline
def _end(source, at, shift, p, q, held, r):  # type: ignore[no-untyped-def]
    """Set row `r` at an end of the window to ``p`` times the input plus ``q`` times its old value."""
    width, zero = held.shape[1], held.dtype.type(0)
    line, row = source[at : at + width], held[r]
    for j in range(width):
        row[j] = zero + p * (line[j] - shift) + q * row[j]


@_inline
def _forward(source, at, shift, pole, held, r):  # type: ignore[no-untyped-def]
    width = held.shape[1]
    line, before, row = source[at : at + width], held[r - 1], held[r]
    for j in range(width):
        row[j] = (line[j] - shift) + pole * before[j]


@_inline
def _backward(pole, held, r):  # type: ignore[no-untyped-def]
    after, row = held[r + 1], held[r]
    for j in range(held.shape[1]):
        row[j] = pole * (after[j] - row[j])


@_inline
def _window(source, at, pitch, low, last, rows, pole, shift, held):  # type: ignore[no-untyped-def]
    """Load input rows from `low` on, less `shift`, with the ends repeated; make them spline coefficients.

    This is the recursion of M. Unser, A. Aldroubi and M. Eden, IEEE TPAMI 13(3), 1991, without its gain, for
    a signal that is constant beyond both ends of the window.
    """
    one = held.dtype.type(1)
    for j in range(held.shape[1]):
        held[0, j] = 0
    _end(source, at + min(max(low, 0), last) * pitch, shift, one / (one - pole), one, held, _TOP)
    for r in range(1, rows):
        _forward(source, at + min(max(low + r, 0), last) * pitch, shift, pole, held, r)
    if pole != 0:
        p, q = pole * pole / ((one - pole) * (pole * pole - one)), pole / (pole * pole - one)
        _end(source, at + min(max(low + rows - 1, 0), last) * pitch, shift, p, q, held, rows - 1)
        for r in range(rows - 2, -1, -1):
            _backward(pole, held, r)


@_inline
def _four(held, k, weights, o, shift, low, high, target, at):  # type: ignore[no-untyped-def]
    """Compute one output row from four weighted rows, add `shift` (the middle of the range), and clip."""
    width, zero = held.shape[1], held.dtype.type(0)
    a, b, c, d = weights[o, 0], weights[o, 1], weights[o, 2], weights[o, 3]
    p, q, r, s = held[k], held[k + 1], held[k + 2], held[k + 3]
    row = target[at : at + width]
    for j in range(width):
        total = zero + a * p[j] + b * q[j] + c * r[j] + d * s[j]
        row[j] = min(max(total + shift, low), high)


@_inline
def _many(held, k, weights, o, shift, low, high, target, at):  # type: ignore[no-untyped-def]
    """Do the same for more than four weights."""
    row = target[at : at + held.shape[1]]
    for j in range(len(row)):
        row[j] = 0
    for t in range(weights.shape[1]):
        w, line = weights[o, t], held[k + t]
        for j in range(len(row)):
            row[j] = row[j] + w * line[j]
    for j in range(len(row)):
        row[j] = min(max(row[j] + shift, low), high)


@_inline
def _axis(  # type: ignore[no-untyped-def]
    source, at, pitch, last, step, held, before, after, low, high, target, to, stride
):
    """Compute all pieces of one axis, from rows of `source`, `pitch` apart, to rows `stride` apart."""
    first, weights, pieces, pole = step[:4]
    for p in range(len(pieces)):
        start = pieces[p, 2]
        _window(source, at, pitch, start, last, pieces[p, 3] - start, pole, before, held)
        for o in range(pieces[p, 0], pieces[p, 1]):
            k, row = first[o] - start, to + o * stride
            if weights.shape[1] == 4:
                _four(held, k, weights, o, after, low, high, target, row)
            else:
                _many(held, k, weights, o, after, low, high, target, row)


@_inline
def _turn(source, n, m, target):  # type: ignore[no-untyped-def]
    """Transpose n rows of m voxels, sixteen rows at a time."""
    whole = n - n % 16
    for i in range(0, whole, 16):
        for j in range(m):
            out = target[j * n + i : j * n + i + 16]
            for k in range(16):
                out[k] = source[(i + k) * m + j]
    for i in range(whole, n):
        for j in range(m):
            target[j * n + i] = source[i * m + j]


def columns(source, size, step, before, after, low, high, target, grid):  # type: ignore[no-untyped-def]
    """Resample along axis 0, in strips of voxels that are contiguous in both arrays."""
    n, height, width, plane, pitch = size
    across = -(-width // -(-width // _STRIP))
    room = np.empty((step[4], across), target.dtype)
    for y in range(height):
        for x in range(0, width, across):
            held = room if x + across <= width else np.empty((step[4], width - x), target.dtype)
            at, to = y * pitch + x, y * grid[4] + x
            _axis(source, at, plane, n - 1, step, held, before, after, low, high, target, to, grid[3])


def planes(source, size, chosen, y, x, before, after, low, high, target, grid):  # type: ignore[no-untyped-def]
    """Resample along axis 1, then 2: output plane ``k`` from plane ``chosen[k]``, clipped to its range."""
    height, width, plane, pitch = size[1:]
    rows, cols = len(y[0]), len(x[0])
    held_y = np.empty((y[4], width), target.dtype)
    held_x = np.empty((x[4], rows), target.dtype)
    upright, turned = np.empty(rows * max(width, cols), target.dtype), np.empty(rows * width, target.dtype)
    summed = np.empty(rows * cols, target.dtype)
    none, free = target.dtype.type(0), target.dtype.type(np.inf)
    for k in range(len(chosen)):
        to = k * grid[3]
        if k == 0 or chosen[k] != chosen[k - 1]:  # the same input plane again gives the same output plane
            at = chosen[k] * plane
            _axis(source, at, pitch, height - 1, y, held_y, before, none, -free, free, upright, _TOP, width)
            _turn(upright, rows, width, turned)
            _axis(turned, _TOP, rows, width - 1, x, held_x, none, after, low[k], high[k], summed, _TOP, rows)
            _turn(summed, cols, rows, upright)
        for o in range(rows):
            line, row = upright[o * cols : (o + 1) * cols], target[to + o * grid[4] : to + o * grid[4] + cols]
            for j in range(cols):
                row[j] = line[j]


@cache
def compiled(name: str, itemsize: int) -> Any:
    """Return `columns` or `planes`, compiled for floats of `itemsize` bytes."""
    real, whole = numba.from_dtype(np.dtype(f"f{itemsize}")), numba.int64
    types: Any = numba.types
    voxels, size = real[::1], types.UniTuple(whole, 5)
    step = types.Tuple((whole[::1], real[:, ::1], whole[:, ::1], real, whole))
    if name == "columns":
        signature = numba.void(voxels, size, step, real, real, real, real, real[::1], size)
    else:
        ways, limits = (whole[::1], step, step), (real, real, real[::1], real[::1])
        signature = numba.void(voxels, size, *ways, *limits, real[::1], size)
    return compile_now(globals()[name], signature, fastmath=_FUSED, error_model="numpy")


def sweep(
    volume: Any,
    begin: list[int],
    steps: list[Step],
    factors: list[float],
    separate: bool,
    limits: tuple[Any, Any],
    middle: float,
    out: Any,
) -> None:
    """Resample one volume: planes then columns, or columns then planes if axis 0 shrinks.

    The intermediate volume is held for one slab of the output at a time. Volumes whose rows are not
    contiguous are copied.

    Parameters
    ----------
    volume : (z, y, x)
        The voxels that `steps` read; float32 or float64.
    begin : (z, y, x)
        Index of its first voxel in the whole input.
    steps : list of Step
        One per axis, with indices of the whole input.
    factors : (z, y, x)
        Output voxels per input voxel.
    separate : bool
        Clip each plane of `volume` to its own range before resampling across planes.
    limits : (low, high)
        One number each, or one for each plane of `volume`; arrays of the type of `out`.
    middle : float
        Subtracted first and added last.
    out : (z, y, x)
        Receives the result.
    """
    if not _is_plain(out):
        whole = np.empty(out.shape, out.dtype)
        sweep(volume, begin, steps, factors, separate, limits, middle, whole)
        out[...] = whole
        return
    volume = volume if _is_plain(volume) and volume.flags.writeable else volume.copy()
    z, y, x = (_Way.of(step, first, out.dtype) for step, first in zip(steps, begin, strict=True))
    none, shift, free = (out.dtype.type(v) for v in (0, middle, np.inf))
    if steps[0].is_copy:
        chosen = z.first
        if separate:
            limits = limits[0][chosen], limits[1][chosen]
        _planes(volume, chosen, y, x, shift, shift, limits, out)
    elif factors[1] == factors[2] == 1 and not separate:
        _columns(volume, z, shift, shift, limits, out)
    elif factors[0] < 1 and not separate:  # z first, so that fewer planes are left for y and x
        for part, rows, span in z.slabs(volume[0].size):
            between = np.empty((len(rows.first), *volume.shape[1:]), out.dtype)
            _columns(volume[span], rows, shift, none, (-free, free), between)
            _planes(between, np.arange(len(between)), y, x, none, shift, limits, out[part])
    else:
        inner = (limits[0] - shift, limits[1] - shift) if separate else (-free, free)
        outer = (-free, free) if separate else limits
        for part, rows, span in y.slabs(len(volume) * len(x.first)):
            between = np.empty((len(volume), len(rows.first), len(x.first)), out.dtype)
            _planes(volume[:, span], np.arange(len(volume)), rows, x, shift, none, inner, between)
            _columns(between, z, none, shift, outer, out[:, part])


@dataclass(frozen=True)
class _Way:
    """A `Step` whose indices count from the first voxel of a block."""

    first: Any
    weights: Any
    pieces: Any
    pole: Any

    @classmethod
    def of(cls, step: Step, begin: int, dtype: Any) -> _Way:
        return cls(
            step.first - begin, step.weights, step.pieces - (0, 0, begin, begin), dtype.type(step.pole)
        )

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The tuple that the compiled passes take; it ends with the number of rows of the largest window."""
        tallest = int((self.pieces[:, 3] - self.pieces[:, 2]).max())
        return self.first, self.weights, self.pieces, self.pole, tallest

    def slabs(self, voxels: int) -> Iterator[tuple[slice, _Way, slice]]:
        """Yield slabs of whole pieces, about `SLAB` voxels each: output rows, their way, their input rows.

        `voxels` is the number of voxels per output row.
        """
        count = max(1, SLAB // (GRID * voxels))
        for k in range(0, len(self.pieces), count):
            pieces = self.pieces[k : k + count]
            part = slice(int(pieces[0, 0]), int(pieces[-1, 1]))
            begin = max(0, int(pieces[:, 2].min()))
            rows = self.first[part] - begin
            local = pieces - (part.start, part.start, begin, begin)
            yield (
                part,
                _Way(rows, self.weights[part], local, self.pole),
                slice(begin, int(pieces[:, 3].max())),
            )


def _planes(
    volume: Any, chosen: Any, y: _Way, x: _Way, before: Any, after: Any, limits: tuple[Any, Any], out: Any
) -> None:
    low, high = (np.full(len(chosen), limit, out.dtype) for limit in limits)
    call = compiled("planes", out.itemsize)
    call(*_memory(volume), chosen, y.arguments, x.arguments, before, after, low, high, *_memory(out))


def _columns(volume: Any, z: _Way, before: Any, after: Any, limits: tuple[Any, Any], out: Any) -> None:
    low, high = (out.dtype.type(limit) for limit in limits)
    merge = all(array.strides[1] == array.shape[2] * array.itemsize for array in (volume, out))
    call, target = compiled("columns", out.itemsize), out
    if not merge and out.shape[2] < _STRIP // 4 and out.size <= SHORT:  # long rows are worth a copy of `out`
        target = np.empty(out.shape, out.dtype)
        merge = volume.strides[1] == volume.shape[2] * volume.itemsize
    call(*_memory(volume, merge), z.arguments, before, after, low, high, *_memory(target, merge))
    if target is not out:
        out[...] = target


def _is_plain(volume: Any) -> bool:
    """Return whether x is contiguous, and strides along z and y are non-negative and whole voxels."""
    steps_well = all(step >= 0 and step % volume.itemsize == 0 for step in volume.strides[:2])
    return steps_well and volume.strides[2] == volume.itemsize


def _memory(volume: Any, merge: bool = False) -> tuple[Any, tuple[int, ...]]:
    """Return the voxels as a flat array, and their shape, plane stride and row stride in voxels.

    With `merge`, each plane counts as one long row.
    """
    n, height, width = volume.shape
    plane, pitch = (step // volume.itemsize for step in volume.strides[:2])
    length = 1 + (n - 1) * plane + (height - 1) * pitch + width - 1
    shape = (n, 1, height * width) if merge else volume.shape
    return as_strided(volume, (length,), (volume.itemsize,)), (*shape, plane, pitch)
