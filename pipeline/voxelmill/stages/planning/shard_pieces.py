"""The pieces that a shard is computed in: whole chunks, and the part of the source that each piece needs.

In: shapes and rules of one case in one configuration, and the memory of a worker. Out: the shape of the
pieces, and the bytes that a task takes. Pieces change no voxel: every box has the same bits as the whole.
Pieces and the chunks of a shard are in C order, so the bytes on disk do not depend on memory either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from voxelmill.basics.geometry import Box, Shape
from voxelmill.kernels.resampling.axis_matrix import Rule
from voxelmill.kernels.resampling.images import gather_voxels, workspace_bytes
from voxelmill.runtime.memory_budget import Memory, shard_bytes, too_little


@dataclass(frozen=True)
class Work:
    """Shapes and rules for the shards of one case in one configuration.

    Attributes
    ----------
    image, label : Rule
        How the crop box is resampled to the output.
    shard, chunk : (z, y, x)
        In voxels of the output.
    label_bytes : int
        Bytes per voxel of the label; 0 without one.
    has_mask : bool
        Whether the filled non-zero mask is needed.
    read_bytes : int
        Bytes held beside a box of the source while it is read.
    """

    image: Rule
    label: Rule
    shard: Shape
    chunk: Shape
    label_bytes: int
    has_mask: bool
    read_bytes: int

    def pieces(self, box: Box, piece: Shape) -> Iterator[Box]:
        """Cut the box of a shard into pieces, in C order."""
        for part in Box.whole(box.shape).cells(piece):
            yield part.shift(box.start)


@lru_cache(maxsize=4096)
def fit_piece(work: Work, memory: Memory) -> tuple[Shape, int]:
    """Return the largest piece (z, y, x) of a shard that fits, and the bytes of its task.

    Raises
    ------
    MemoryLimitError
        If not even one chunk fits.
    """
    task = 0
    for budget in memory.budgets:
        for piece in _shapes(work.shard, work.chunk):
            task = _piece_bytes(work, piece)
            if budget is None or task <= budget:
                return piece, task
    chunk = " x ".join(str(n) for n in work.chunk)
    what = f"a chunk of {chunk} voxels of the training set, with what it is made of,"
    raise too_little(what, task, memory, " Or choose smaller ones with store.chunk.")


def _shapes(shard: Shape, chunk: Shape) -> Iterator[Shape]:
    """Yield ever smaller pieces; their chunks, piece after piece, are the shard's chunks in C order."""
    counts = [s // c for s, c in zip(shard, chunk, strict=True)]
    for axis in range(3):
        for n in range(counts[axis], 0 if axis == 2 else 1, -1):
            sizes = (1,) * axis + (n,) + tuple(counts[axis + 1 :])
            z, y, x = (s * c for s, c in zip(sizes, chunk, strict=True))
            yield z, y, x


def _piece_bytes(work: Work, piece: Shape) -> int:
    """Return the bytes of a task for the largest piece of this shape, with each axis at its largest."""
    write, read = np.zeros(3, int), np.zeros(3, int)
    for box in _diagonal(work, piece):
        write = np.maximum(write, box.shape)
        read = np.maximum(read, work.image.read_box(box).shape)
        if work.label_bytes:
            read = np.maximum(read, work.label.read_box(box).shape)
    boxes = Box.whole(read.tolist()), Box.whole(write.tolist())
    return shard_bytes(
        boxes[0].size,
        boxes[1].size,
        workspace_bytes(work.image, *boxes),
        work.read_bytes,
        work.label_bytes,
        gather_voxels(boxes[0].shape, boxes[1].shape),
        int(np.prod(work.chunk)),
        work.has_mask,
    )


def _diagonal(work: Work, piece: Shape) -> Iterator[Box]:
    """Yield boxes that contain every cut of every axis: the read range of an axis depends on it alone."""
    cuts = [_cuts(*axis) for axis in zip(work.image.shape_out, work.shard, piece, strict=True)]
    for i in range(max(len(c) for c in cuts)):
        spans = [c[min(i, len(c) - 1)] for c in cuts]
        yield Box.from_bounds(spans)


def _cuts(n: int, shard: int, piece: int) -> list[tuple[int, int]]:
    """Return the ranges of the pieces of all shards along one axis."""
    return [
        (at, min(at + piece, start + shard, n))
        for start in range(0, n, shard)
        for at in range(start, min(start + shard, n), piece)
    ]
