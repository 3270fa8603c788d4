"""How arrays are cut: slabs of the raw store, chunks and shards of the training store.

In: shapes, spacings and item sizes. Out: shapes, z, y, x. Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from voxelmill.config import Configuration
from voxelmill.geometry import Shape, Triple
from voxelmill.kernels.axis import GRID

SLAB_BYTES = 32 * 2**20
"""Bytes of one raw slab, the piece that ingest reads and writes at once."""

PATCH_VOXELS = 128**3
"""Voxels of the training patch that inner chunks are made for."""

SIDE = 32
"""Sides of inner chunks are multiples of this, or powers of two below it."""


def raw_layout(shape: Sequence[int], itemsize: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunk and shard (z, y, x) of the raw store: a shard is one slab of whole slices.

    A slab is about `SLAB_BYTES`, but at least one slice, however large the plane. A chunk is a sixteenth
    of that, so that a box of a large plane is read without the rest of it.
    """
    depth, height, width = shape
    slab = max(1, min(depth, SLAB_BYTES // (height * width * itemsize)))
    thickness = min(16, 1 << (slab.bit_length() - 1))
    slab -= slab % thickness if slab < depth else -(-slab % thickness)
    side = 256
    while side * side * thickness * itemsize < SLAB_BYTES // 16:
        side *= 2
    chunk = (thickness, *(-(-n // max(1, round(n / side))) for n in (height, width)))
    return chunk, (slab, *(-(-n // c) * c for n, c in zip(shape[1:], chunk[1:], strict=True)))


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
