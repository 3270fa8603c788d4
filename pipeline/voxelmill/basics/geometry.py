"""Boxes of voxels, and the position of a grid in the world.

Arrays are z, y, x everywhere, lengths are in millimetres, boxes are half-open. World coordinates are ITK's
(LPS), also with components in z, y, x order. Only `Geometry.from_itk` and `Geometry.from_ras_affine`, which
readers call, reverse the x, y, z order of ITK and NIfTI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import GeometryError, SpacingError

Shape = tuple[int, int, int]
Triple = tuple[float, float, float]
Matrix = tuple[Triple, Triple, Triple]

ROUNDING = 1e-3
"""Tolerance for rounding errors, in voxels: a corner at most this far beyond a grid adds no row to it."""


SAME_GRID = 0.1
"""Tolerance for two grids to count as one: the largest distance between their corners, in voxels."""


@dataclass(frozen=True)
class Box:
    """Half-open region of an array, in voxels: ``start <= index < stop`` on each axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """Return the box that covers an array of `shape`."""
        return cls((0,) * len(shape), tuple(int(n) for n in shape))

    @classmethod
    def from_bounds(cls, bounds: Sequence[Sequence[int]]) -> Box:
        """Make a box from ``[[z0, z1], [y0, y1], [x0, x1]]``, the form in stores and JSON."""
        return cls(tuple(int(b[0]) for b in bounds), tuple(int(b[1]) for b in bounds))

    @property
    def bounds(self) -> list[list[int]]:
        """The box as ``[[z0, z1], [y0, y1], [x0, x1]]``, the form in stores and JSON."""
        return [[a, b] for a, b in zip(self.start, self.stop, strict=True)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Slices that index the box in an array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def cells(self, cell: Sequence[int]) -> Iterator[Box]:
        """Yield the pieces of the box, cut at the multiples of `cell` on each axis, in C order."""
        grid = [range(a // c, -(-b // c)) for a, b, c in zip(self.start, self.stop, cell, strict=True)]
        for index in product(*grid):
            start = tuple(i * c for i, c in zip(index, cell, strict=True))
            stop = tuple(a + c for a, c in zip(start, cell, strict=True))
            yield Box(start, stop).intersect(self)

    def with_channels(self, first: int, stop: int) -> Box:
        """Return the box with a leading channel axis, from ``first`` to ``stop`` (exclusive)."""
        return Box((first, *self.start), (stop, *self.stop))

    def shift(self, offset: Sequence[int]) -> Box:
        """Return the box moved by `offset` voxels."""
        return Box(
            tuple(a + o for a, o in zip(self.start, offset, strict=True)),
            tuple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def intersect(self, other: Box) -> Box:
        """Return the intersection with `other`; empty axes get ``stop == start``."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, tuple(max(a, b) for a, b in zip(start, stop, strict=True)))


@dataclass(frozen=True)
class Geometry:
    """A grid of voxels and its position in the world.

    Attributes
    ----------
    shape : (z, y, x)
        Voxels along each axis.
    spacing : (z, y, x)
        Millimetres between voxel centres, positive.
    origin : (z, y, x)
        World position (LPS) of the centre of voxel (0, 0, 0), in millimetres.
    direction : 3x3
        Unit vectors as columns: rows are world axes, columns are index axes, both in z, y, x order.

    Raises
    ------
    SpacingError
        If a spacing is not a positive finite number.
    GeometryError
        If the direction is singular.
    """

    shape: Shape
    spacing: Triple = (1.0, 1.0, 1.0)
    origin: Triple = (0.0, 0.0, 0.0)
    direction: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    def __post_init__(self) -> None:
        if not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise SpacingError(
                f"spacing is {self.spacing} mm (z, y, x); every axis needs a positive finite number. "
                "Mend the header, or give the spacing in a manifest."
            )
        matrix = np.asarray(self.direction)
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
            raise GeometryError(
                f"direction {matrix.round(6).tolist()} is singular; three independent axes are needed. "
                "Mend the header."
            )

    @classmethod
    def from_itk(
        cls,
        size: Sequence[int],
        spacing: Sequence[float],
        origin: Sequence[float],
        direction: Sequence[float],
    ) -> Geometry:
        """Make a grid from ITK's x, y, z order; `direction` is row-major, as from ``GetDirection()``."""
        matrix = np.asarray(direction, float).reshape(3, 3)[::-1, ::-1]
        return cls(
            _three(int(n) for n in reversed(size)),
            _three(float(s) for s in reversed(spacing)),
            _three(float(o) for o in reversed(origin)),
            _rows(matrix),
        )

    @classmethod
    def from_ras_affine(cls, size: Sequence[int], affine: npt.ArrayLike) -> Geometry:
        """Make a grid from a NIfTI affine (4x4: x, y, z index to right, anterior, superior millimetres)."""
        matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, float)  # RAS to LPS
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        columns = matrix[:3, :3] / np.where(spacing > 0, spacing, 1)
        return cls.from_itk(size, spacing.tolist(), matrix[:3, 3].tolist(), columns.ravel().tolist())

    def world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the world positions (z, y, x, in millimetres) of voxel indices; both have shape (..., 3)."""
        step = np.asarray(self.direction) * np.asarray(self.spacing)
        positions: npt.NDArray[np.float64] = np.asarray(index, float) @ step.T + np.asarray(self.origin)
        return positions

    def crop(self, box: Box) -> Geometry:
        """Return the grid of ``array[box]``."""
        origin = _three(float(v) for v in self.world(box.start))
        return Geometry(_three(box.shape), self.spacing, origin, self.direction)

    def resample(self, shape: Shape) -> Geometry:
        """Return the grid of `shape` voxels that covers the same extent.

        The outer faces of the two grids coincide, not the centres of their corner voxels.
        """
        ratio = [n / m for n, m in zip(self.shape, shape, strict=True)]
        origin = self.world([0.5 * r - 0.5 for r in ratio])
        return Geometry(
            shape,
            _three(s * r for s, r in zip(self.spacing, ratio, strict=True)),
            _three(float(v) for v in origin),
            self.direction,
        )

    def indices_in(self, other: Geometry) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the affine map from indices here to indices of `other`: a 3x3 matrix and an offset."""
        inverse = np.linalg.inv(np.asarray(other.direction) * np.asarray(other.spacing))
        matrix = inverse @ (np.asarray(self.direction) * np.asarray(self.spacing))
        return matrix, inverse @ (np.asarray(self.origin) - np.asarray(other.origin))

    def displacement(self, other: Geometry) -> float:
        """Return the largest distance between corresponding corner voxels, in units of the finest spacing."""
        apart = np.linalg.norm(self.world(self._corners) - other.world(other._corners), axis=-1)
        return float(apart.max() / min(self.spacing))

    @property
    def is_right_handed(self) -> bool:
        """Whether the axes x, y, z form a right-handed system, as the world's do."""
        return float(np.linalg.det(np.asarray(self.direction))) > 0

    @property
    def shear_voxels(self) -> float:
        """Largest displacement of a corner from the grid with orthogonal axes, in voxels.

        `_straight` defines the orthogonal axes.
        """
        return self.displacement(self._straight)

    @property
    def shear_degrees(self) -> float:
        """Largest angle between an axis and its orthogonal counterpart, in degrees."""
        cosines = (np.asarray(self.direction) * np.asarray(self._straight.direction)).sum(axis=0)
        return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())

    def unsheared(self) -> Geometry:
        """Return the orthogonal grid that is reached by shifting whole slices, and whole rows in them.

        The number of slices and their distance along the normal do not change. Rows and columns are added so
        that no voxel is lost.
        """
        straight = self._straight
        matrix, offset = self.indices_in(straight)
        corners = self._corners.reshape(-1, 3) @ matrix.T + offset
        low = np.floor(corners.min(axis=0) + ROUNDING).astype(int)
        high = np.ceil(corners.max(axis=0) - ROUNDING).astype(int)
        shape = _three(int(n) for n in high - low + 1)
        return Geometry(shape, straight.spacing, _three(map(float, straight.world(low))), straight.direction)

    @property
    def _straight(self) -> Geometry:
        """The grid with orthogonal axes: the same shape, origin and x axis, spacing projected onto the axes.

        The axes are orthogonalised by Gram-Schmidt in the order x, y, z.
        """
        z, y, x = np.asarray(self.direction).T
        y = y - (y @ x) * x
        y = y / np.linalg.norm(y)
        z = z - (z @ x) * x - (z @ y) * y
        direction = np.stack([z / np.linalg.norm(z), y, x], axis=1)
        projected = (direction * np.asarray(self.direction)).sum(axis=0) * np.asarray(self.spacing)
        return Geometry(self.shape, _three(map(float, projected)), self.origin, _rows(direction))

    @property
    def _corners(self) -> npt.NDArray[np.int64]:
        """Indices of the corner voxels, shape (2, 2, 2, 3)."""
        return np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), -1)

    def to_attributes(self) -> dict[str, Any]:
        """Return spacing, origin and direction as JSON values."""
        return {
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": [list(row) for row in self.direction],
        }


def _three(values: Any) -> Any:
    triple = tuple(values)
    if len(triple) != 3:
        raise GeometryError(f"{triple} has {len(triple)} entries; z, y and x are needed")
    return triple


def _rows(matrix: npt.NDArray[np.float64]) -> Matrix:
    z, y, x = (_three(float(v) for v in row) for row in matrix)
    return z, y, x
