"""How arrays are cut: slabs of the raw store, chunks and shards of the training store.

In: shapes, spacings and item sizes. Out: shapes, z, y, x. Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from voxelmill.basics.geometry import Shape, Triple
from voxelmill.config.configuration_names import Configuration
from voxelmill.kernels.resampling.axis_matrix import GRID

SLAB_BYTES = 64 * 2**20
"""Bytes of one slab at most, the piece that ingest reads and writes at once, unless one slice has more."""

STEP_BYTES = 512 * 2**20
"""Bytes of one slab at most where that many slices lie together in the source."""

RAW_SHARD_BYTES = 128 * 2**20
"""Uncompressed bytes of a shard of the raw store, about."""

RAW_SIDE = 128
"""Sides in the plane, about, of a chunk of the raw store: a box is read without much around it."""

THICKNESS = 16
"""Slices of a chunk of the raw store, if they can be divided so."""

PATCH_VOXELS = 128**3
"""Voxels of the training patch that inner chunks are made for."""

SIDE = 32
"""Sides of inner chunks are multiples of this, or powers of two below it."""


def slab_depth(slices: int, slice_bytes: int, fixed_bytes: int, budget: int | None, step: int = 1) -> int:
    """Slices of a slab that fits into a budget of bytes; 0 where not even one slice fits.

    Where `step` slices lie together in the source, whole steps are taken if they fit; otherwise a power of
    two up to `THICKNESS`.
    """
    available = math.inf if budget is None else budget - fixed_bytes
    if slice_bytes > available:
        return 0
    fits = min(THICKNESS, slices, int(min(available, max(SLAB_BYTES, slice_bytes)) // slice_bytes))
    if step > 1 and step * slice_bytes <= min(available, STEP_BYTES):
        return step * max(1, fits // step)
    return 1 << (fits.bit_length() - 1)


def raw_layout(shape: Sequence[int], itemsize: int, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunk and shard (z, y, x) of an array of the raw store that is written in slabs of `depth` slices.

    A slab is whole chunks, a shard whole slabs: the shard is written as the slabs come.
    """
    divisors = [n for n in range(1, depth + 1) if depth % n == 0]
    thickness = max(n for n in divisors if n <= THICKNESS)
    if thickness < min(depth, THICKNESS // 2):  # a depth of 17 has no better one than itself
        thickness = min(n for n in divisors if n > THICKNESS)
    side = RAW_SIDE * math.sqrt(THICKNESS / max(thickness, THICKNESS))
    chunk = (thickness, *(-(-n // max(1, round(n / side))) for n in shape[1:]))
    padded = [-(-n // c) * c for n, c in zip(shape, chunk, strict=True)]
    slabs = max(1, RAW_SHARD_BYTES // (depth * padded[1] * padded[2] * itemsize))
    return chunk, (min(slabs * depth, -(-padded[0] // depth) * depth), *padded[1:])


def chunk_shape(target: Triple, name: Configuration = "fullres") -> Shape:
    """Inner chunk of a training set: about half a training patch a side.

    The patch is a cube in millimetres of `PATCH_VOXELS` voxels, in "2d" one slice of 512 x 512. It depends
    on no case, so that a case more changes no other. Sides are multiples of `SIDE`, or powers of two below.
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
    """The largest shard under `limit` bytes with few cuts: whole chunks, cut at the kernel's pieces.

    Each cut costs a halo on both sides, so the next cut goes through the axis where it costs the least
    of the volume.
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
