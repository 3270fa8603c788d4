"""Shapes of the pieces of arrays: slabs, chunks and shards of the raw store and the training store.

In: shapes, spacings and item sizes. Out: shapes (z, y, x). This module is pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from voxelmill.basics.geometry import Shape, Triple
from voxelmill.config.configuration_names import Configuration
from voxelmill.kernels.resampling.axis_matrix import GRID

SLAB_BYTES = 64 * 2**20
"""Most bytes of a slab, the piece that ingest reads and writes at once; a single slice may be larger."""

STEP_BYTES = 512 * 2**20
"""Most bytes of a slab if the source stores that many slices together."""

RAW_SHARD_BYTES = 128 * 2**20
"""Approximate size of a shard of the raw store, in uncompressed bytes."""

RAW_SIDE = 128
"""Approximate in-plane side of a chunk of the raw store, in voxels: small, so a box reads little extra."""

THICKNESS = 16
"""Slices of a chunk of the raw store, if the slab can be divided that way."""

PATCH_VOXELS = 128**3
"""Voxels of the training patch that the inner chunks are designed for."""

SIDE = 32
"""Sides of inner chunks are multiples of this number of voxels, or powers of two below it."""


def slab_depth(slices: int, slice_bytes: int, fixed_bytes: int, budget: int | None, step: int = 1) -> int:
    """Return the number of slices of a slab that fits into a budget; 0 if not even one slice fits.

    If the source stores `step` slices together and they fit, the depth is a multiple of `step`; otherwise it
    is a power of two up to `THICKNESS`.

    Parameters
    ----------
    slices : int
        Slices of the volume.
    slice_bytes, fixed_bytes : int
        Memory per slice, and memory that does not depend on the depth.
    budget : int or None
        Memory of the task in bytes; None sets no limit.
    step : int
        Slices that the source stores together.
    """
    available = math.inf if budget is None else budget - fixed_bytes
    if slice_bytes > available:
        return 0
    fits = min(THICKNESS, slices, int(min(available, max(SLAB_BYTES, slice_bytes)) // slice_bytes))
    if step > 1 and step * slice_bytes <= min(available, STEP_BYTES):
        return step * max(1, fits // step)
    return 1 << (fits.bit_length() - 1)


def raw_layout(shape: Sequence[int], itemsize: int, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return chunk and shard (z, y, x) of an array of the raw store, for slabs of `depth` slices.

    A slab consists of whole chunks, and a shard of whole slabs, so a shard is written as its slabs arrive.
    """
    divisors = [n for n in range(1, depth + 1) if depth % n == 0]
    thickness = max(n for n in divisors if n <= THICKNESS)
    if thickness < min(depth, THICKNESS // 2):  # for example, the divisors of a depth of 17 are 1 and 17
        thickness = min(n for n in divisors if n > THICKNESS)
    side = RAW_SIDE * math.sqrt(THICKNESS / max(thickness, THICKNESS))
    chunk = (thickness, *(-(-n // max(1, round(n / side))) for n in shape[1:]))
    padded = [-(-n // c) * c for n, c in zip(shape, chunk, strict=True)]
    slabs = max(1, RAW_SHARD_BYTES // (depth * padded[1] * padded[2] * itemsize))
    return chunk, (min(slabs * depth, -(-padded[0] // depth) * depth), *padded[1:])


def chunk_shape(target: Triple, name: Configuration = "fullres") -> Shape:
    """Return the inner chunk (z, y, x) of a training set: each side is about half a training patch.

    The patch is a cube in millimetres with `PATCH_VOXELS` voxels, or in "2d" one slice of 512 x 512. It
    depends only on the target spacing `target` (z, y, x, in millimetres), so adding a case changes no other
    case. Sides are multiples of `SIDE`, or powers of two below it.
    """
    spacing = np.asarray(target)
    if name == "2d":
        across = int(np.argmax(spacing))
        plane = np.delete(spacing, across)
        patch = np.insert(np.sqrt(PATCH_VOXELS / 8 * plane.prod()) / plane, across, 1.0)
    else:
        patch = np.cbrt(PATCH_VOXELS * spacing.prod()) / spacing
    z, y, x = (_grid_side(p / 2) for p in patch)
    return z, y, x


def _grid_side(voxels: float) -> int:
    if voxels >= 0.75 * SIDE:
        return SIDE * max(1, round(voxels / SIDE))
    return 1 << round(math.log2(max(1.0, voxels)))


def shard_shape(shape: Shape, chunk: Shape, voxel_bytes: int, limit: int) -> Shape:
    """Return the shard (z, y, x) of an array: whole chunks, at most `limit` bytes, with few cuts.

    Each cut costs a halo on both sides, so the next cut goes through the axis where the halo is the smallest
    fraction of the volume. Cuts lie at the pieces of the resampling kernel. The smallest possible shard may
    exceed `limit`.
    """
    steps = [math.lcm(c, GRID) for c in chunk]
    pieces = [1, 1, 1]

    def side(axis: int) -> int:
        if pieces[axis] == 1:
            return -(-shape[axis] // chunk[axis]) * chunk[axis]
        return -(-shape[axis] // (pieces[axis] * steps[axis])) * steps[axis]

    while math.prod(side(axis) for axis in range(3)) * voxel_bytes > limit:
        divisible = [axis for axis in range(3) if side(axis) > steps[axis]]
        if not divisible:
            break
        pieces[min(divisible, key=lambda axis: pieces[axis] / shape[axis])] += 1
    return side(0), side(1), side(2)
