"""A volume resampled onto another grid by physical position: linear for images, nearest for labels.

In: a source that is read box by box, its grid, and the target grid. Out: a `Volume`. It takes the memory of
one tile. Tiles are cut so that the part of the source that a tile needs is small at any angle between the
grids. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Box, Geometry, Shape
from voxelmill.basics.volume import Array, Slab, Volume
from voxelmill.runtime.memory_budget import RAW_CHUNK, SlabCost
from voxelmill.storage.chunk_and_shard_shapes import RAW_SIDE, THICKNESS

TILE_BYTES = 16 * 2**20
"""Most bytes of the part of the source that a tile needs, unless a single voxel needs more."""

WORK_BYTES = 200
"""Bytes for each voxel of a tile's plane during interpolation: positions, weights, indices, values."""

LATTICE = 64
"""Most positions along an axis that are sampled for the share outside the source."""

Floats = npt.NDArray[np.float64]


class Source(Protocol):
    """An array that is read box by box, such as one of the raw store."""

    def fill(self, box: Box, out: Array) -> None:
        """Put the stored values of a (c, z, y, x) box into `out`."""


class Regridded(Volume):
    """A volume brought onto another grid.

    A voxel with index i of this grid lies at the continuous index c = M i + b of the source, where M and b
    follow from both geometries. With f = floor(c) and w = c - f on each axis, its value is

        sum over the eight corners k in {0, 1}^3 of  prod_a (w_a if k_a else 1 - w_a) * source[f + k]

    in float64, where indices beyond a face are clamped to the edge; integers are rounded to nearest, ties to
    even. A label is ``source[floor(c + 0.5)]``. If c is below -0.5 or not below n - 0.5 on an axis of n
    voxels, the value is `outside`. These are the rules of ITK's linear and nearest interpolators. Every voxel
    is computed from its index alone, so the bits do not depend on how the volume is cut.

    Parameters
    ----------
    source : Source
        Stored values (c, z, y, x) of type `dtype`.
    grid, target : Geometry
        Grid of the source, and grid of this volume.
    dtype : numpy dtype
        Type of the stored values.
    outside : sequence
        Stored value outside the source, one per channel.
    is_label : bool
        Whether to take the nearest voxel instead of interpolating.
    staging : SlabCost
        Memory that writing the source took.
    facts
        Arguments of `Volume`.
    """

    def __init__(
        self,
        source: Source,
        grid: Geometry,
        target: Geometry,
        dtype: npt.DTypeLike,
        *,
        outside: Sequence[Any],
        is_label: bool,
        staging: SlabCost,
        **facts: Any,
    ) -> None:
        super().__init__(target, dtype, channels=len(outside), **facts)
        self.staging = staging
        self._source, self._grid, self._outside = source, grid, outside
        self._sample = _nearest if is_label else _linear
        self._matrix, self._offset = target.indices_in(grid)
        self._tile = self._fitting_tile()

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Yield every voxel once, channel by channel; see `Volume.slabs`."""
        shape = self.geometry.shape
        memory = np.empty((min(depth, shape[0]), *shape[1:]), self.dtype)
        for channel in range(self.channels):
            for z in range(0, shape[0], depth):
                box = Box((z, 0, 0), (min(z + depth, shape[0]), *shape[1:]))
                data = memory[: box.shape[0]]
                for tile in box.cells(self._tile):
                    self._fill_tile(channel, tile, data[tile.shift((-z, 0, 0)).slices])
                yield Slab(channel, z, data[None])

    @property
    def extra_bytes(self) -> int:
        """Bytes of the largest tile: its part of the source, a chunk encoded and decoded, work on a plane."""
        _, height, width = self._tile
        part = self._part_voxels(self._tile) + 2 * RAW_CHUNK
        return part * self.dtype.itemsize + WORK_BYTES * height * width

    def _fitting_tile(self) -> Shape:
        """Return a chunk of the raw store, halved along its longest side until its source part is small."""
        limits = (THICKNESS, RAW_SIDE, RAW_SIDE)
        tile = [min(n, m) for n, m in zip(self.geometry.shape, limits, strict=True)]
        steps = np.linalg.norm(self._matrix, axis=0)
        while self._part_voxels(tile) * self.dtype.itemsize > TILE_BYTES and max(tile) > 1:
            sides = [step * n if n > 1 else 0.0 for step, n in zip(steps, tile, strict=True)]
            longest = int(np.argmax(sides))
            tile[longest] = -(-tile[longest] // 2)
        z, y, x = tile
        return z, y, x

    def _part_voxels(self, tile: Sequence[int]) -> int:
        """Return an upper bound of the source voxels that a tile of this shape needs, at any position."""
        sides = np.ceil(np.abs(self._matrix) @ (np.asarray(tile) - 1)) + 3  # two neighbours, and rounding
        return int(np.minimum(sides, self._grid.shape).prod())

    def _fill_tile(self, channel: int, tile: Box, out: Array) -> None:
        part = self._part(tile)
        if part is None:
            out[...] = self._outside[channel]
            return
        values = np.empty((1, *part.shape), self.dtype)
        self._source.fill(part.with_channels(channel, channel + 1), values)
        for z, plane in zip(range(tile.start[0], tile.stop[0]), out, strict=True):
            at = self._positions(z, *(np.arange(a, b) for a, b in tile.bounds[1:]))
            plane[...] = self._sample(values[0], part, at)
            plane[self._is_outside(at)] = self._outside[channel]

    def _part(self, tile: Box) -> Box | None:
        """Return the part of the source that a tile needs, or None if the whole tile lies outside.

        Positions are monotone in each index, even when rounded, so the corners enclose all of them.
        """
        z, y, x = (np.array([a, b - 1]) for a, b in tile.bounds)
        corners = [np.stack(axis) for axis in zip(*(self._positions(n, y, x) for n in z), strict=True)]
        start, stop = [], []
        for at, n in zip(corners, self._grid.shape, strict=True):
            if at.max() < -0.5 or at.min() >= n - 0.5:
                return None
            start.append(int(np.clip(np.floor(at.min()), 0, n - 1)))
            stop.append(int(np.clip(np.floor(at.max()) + 1, 0, n - 1)) + 1)
        return Box(tuple(start), tuple(stop))

    def _positions(self, z: Any, y: Array, x: Array) -> list[Floats]:
        """Return the source indices z, y, x, continuous, of one plane's voxels; each (len(y), len(x))."""
        return [
            (row[0] * z + first) + row[1] * y[:, None] + row[2] * x
            for row, first in zip(self._matrix, self._offset, strict=True)
        ]

    def _is_outside(self, at: Sequence[Floats]) -> npt.NDArray[np.bool_]:
        outside = np.zeros(at[0].shape, bool)
        for axis, n in zip(at, self._grid.shape, strict=True):
            outside |= (axis < -0.5) | (axis >= n - 0.5)
        return outside

    def share_outside(self) -> float:
        """Return the part of this grid outside the source, 0 to 1, from at most 64 positions per axis."""
        z, y, x = (np.linspace(0, n - 1, min(n, LATTICE)) for n in self.geometry.shape)
        return float(np.mean([self._is_outside(self._positions(n, y, x)).mean() for n in z]))


def _linear(values: Array, part: Box, at: Sequence[Floats]) -> Array:
    """Interpolate a part of the source trilinearly, in float64."""
    floors = [np.floor(axis) for axis in at]
    upper = [axis - floor for axis, floor in zip(at, floors, strict=True)]
    weights = [(1 - w, w) for w in upper]
    indices = [
        (_within(f, a, b), _within(f + 1, a, b)) for f, (a, b) in zip(floors, part.bounds, strict=True)
    ]
    total = np.zeros(at[0].shape)
    for k in product((0, 1), repeat=3):
        weight = weights[0][k[0]] * weights[1][k[1]] * weights[2][k[2]]
        total += weight * values[indices[0][k[0]], indices[1][k[1]], indices[2][k[2]]]
    return total if values.dtype.kind == "f" else np.rint(total)


def _nearest(values: Array, part: Box, at: Sequence[Floats]) -> Array:
    """Take the nearest voxel of a part of the source."""
    z, y, x = (_within(np.floor(axis + 0.5), a, b) for axis, (a, b) in zip(at, part.bounds, strict=True))
    nearest: Array = values[z, y, x]
    return nearest


def _within(index: Floats, start: int, stop: int) -> npt.NDArray[np.intp]:
    """Return indices relative to a part of an axis, clamped to its edges."""
    return np.clip(index, start, stop - 1).astype(np.intp) - start
