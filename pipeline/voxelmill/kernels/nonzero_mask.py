"""The non-zero mask of a case: find its bounding box and fill its holes.

In: arrays (z, y, x) or (c, z, y, x) of rescaled values, or a mask, NumPy or CuPy. Out: a box, or a mask of
the same array library. This module knows no files and no chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from voxelmill.kernels.backend import asnumpy, fill_holes_gpu, get_array_module
from voxelmill.kernels.numba_on_first_use import compiled

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
OPEN = 2
"""Value of background in a scanned slab that may be a hole: a later slab decides."""

_NO_SLICE = np.empty((0, 0), np.uint8)

Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def nonzero_box(array: Array) -> Bounds:
    """Return the smallest box that holds all non-zero voxels, or the whole array if there are none.

    Parameters
    ----------
    array : (z, y, x) or (c, z, y, x)
        Rescaled values or a mask. NaN counts as non-zero. The function holds one more slice of booleans.

    Returns
    -------
    ((z0, z1), (y0, y1), (x0, x1))
        Half-open, the union over the channels.

    Raises
    ------
    ValueError
        If the array does not have 3 or 4 dimensions.
    """
    channels = _channels(array)
    along_z = []
    along_y: Any = np.zeros(channels.shape[2], bool)
    along_x: Any = np.zeros(channels.shape[3], bool)
    for z in range(channels.shape[1]):
        plane = (channels[:, z] != 0).any(axis=0)
        rows, columns = asnumpy(plane.any(axis=1)), asnumpy(plane.any(axis=0))
        along_z.append(rows.any())
        along_y |= rows
        along_x |= columns
    return _extent(along_z), _extent(along_y), _extent(along_x)


def fill_holes(mask: Array) -> Mask:
    """Fill the background that no path along the axes connects to the border.

    The result equals ``scipy.ndimage.binary_fill_holes`` with its default structure. The background is cut
    into runs along x. A union-find joins runs that touch in neighbouring rows, and joins runs at the border
    with the outside (Tarjan, "Efficiency of a good but not linear set union algorithm", 1975; runs as in He,
    Chao and Suzuki, "A run-based two-scan labeling algorithm", 2008). Runs that are not joined with the
    outside are filled.

    Parameters
    ----------
    mask : array of 1, 2 or 3 dimensions
        Non-zero means True.

    Returns
    -------
    bool array of the same shape

    Raises
    ------
    ValueError
        If the mask does not have 1 to 3 dimensions.

    Notes
    -----
    Besides the result, 8 bytes are held per row along x and 12 per run of background (16 from 2**31 voxels
    on): at most 6 bytes per voxel if rows are long, far less for masks of bodies.
    """
    if not 1 <= mask.ndim <= 3:
        raise ValueError(f"mask has shape {mask.shape}; 1 to 3 dimensions are needed")
    if get_array_module(mask) is not np:
        return cast(Mask, fill_holes_gpu(mask))
    filled = np.array(mask, np.bool_, order="C")
    if mask.size == 0 or filled.all():
        return filled
    volume = filled.reshape((1,) * (3 - mask.ndim) + mask.shape).view(np.uint8)
    _fill(volume, _NO_SLICE, np.empty(0, _number_type(mask.size)), mask.ndim, False)
    return filled


class HoleFiller:
    """Fills the holes of a mask that does not fit into memory; the result equals `fill_holes` of the whole.

    The mask is passed twice in slabs of whole slices, to `scan` from first to last, then to `fill` from last
    to first::

        scan   0 -> 1 -> 2 -> 3   knows what the slabs above join; what reaches the next slab stays OPEN
        fill   0 <- 1 <- 2 <- 3   knows which background of the slab below is outside

    The two passes together follow every path. Until a path leaves a slab downwards, it runs in this slab and
    those above; where it leaves, it enters background of the next slab, and that is known to be outside or
    not. The connections made by the slabs above are kept as the union-find forest of the runs in the slab's
    first slice, as Hoshen and Kopelman keep one plane of labels ("Percolation and cluster distribution I",
    1976).

    Between the passes one number (4 bytes, 8 for slabs from 2**31 voxels on) is held per open run in the
    first slice of each slab: none where no hole crosses, at most 2 bytes per voxel of that slice. A pass
    holds three slabs, and the memory of `fill_holes` for one of them.
    """

    def __init__(self) -> None:
        self._joined: list[Array] = []
        self._below: Array = _NO_SLICE

    def scan(self, slabs: Iterable[Mask]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield each slab, first to last, as uint8: 0 outside, 1 mask or filled hole, 2 open.

        A slab is decided from itself and the slabs before it.

        Raises
        ------
        ValueError
            If a slab is empty, or its slices differ in shape from those of the slab before.
        """
        ahead = _whole_slices(slabs)
        above: Array = np.empty(0, np.int32)
        slab, following = next(ahead, None), next(ahead, None)
        while slab is not None:
            below = _NO_SLICE if following is None else _as_bytes(following[0])
            scanned = _as_bytes(slab)
            above = above.astype(_number_type(slab.size + below.size))
            joined, above = _fill(scanned, below, above, 3, False)
            self._joined.append(joined)
            yield scanned
            slab = following
            following = next(ahead, None)

    def fill(self, scanned: npt.NDArray[np.uint8]) -> bool:
        """Decide the open voxels of a scanned slab in place; call it from the last slab to the first.

        Returns
        -------
        bool
            Whether any voxel was open. Afterwards the slab holds only 0 and 1.
        """
        joined, mask = self._joined.pop(), (scanned != OPEN).view(np.uint8)
        is_open = not mask.all()
        if is_open:
            _fill(mask, self._below, joined, 3, True)
            np.minimum(scanned, mask, out=scanned)
        self._below = scanned[0].copy()
        return is_open


def slice_counts(mask: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the number of True voxels in each slice of a (z, y, x) mask, along z, y and x."""
    z = np.empty(mask.shape[0], np.int64)
    y, x = np.zeros(mask.shape[1], np.int64), np.zeros(mask.shape[2], np.int64)
    for i, plane in enumerate(mask):
        rows = np.count_nonzero(plane, axis=1)
        z[i] = rows.sum()
        y += rows
        x += np.count_nonzero(plane, axis=0)
    return z, y, x


def _channels(array: Array) -> Array:
    """Return the array as (c, z, y, x)."""
    if array.ndim not in (3, 4):
        raise ValueError(f"array has shape {array.shape}; (z, y, x) or (c, z, y, x) is needed")
    return array if array.ndim == 4 else array[None]


def _extent(hits: npt.ArrayLike) -> tuple[int, int]:
    """Return the half-open range of the hits, or the whole axis if there are none."""
    found = np.flatnonzero(hits)
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, len(np.asarray(hits)))


def _number_type(voxels: int) -> type[np.signedinteger[Any]]:
    """Return an integer type that can number the runs of `voxels` voxels."""
    return np.int32 if voxels < 2**31 else np.int64


def _as_bytes(mask: Mask) -> npt.NDArray[np.uint8]:
    """Return a C-contiguous copy as 0 and 1."""
    return np.array(mask, np.bool_, order="C").view(np.uint8)


def _whole_slices(slabs: Iterable[Mask]) -> Iterator[Mask]:
    """Yield the slabs, each checked to have slices of the same shape as the one before."""
    shape = None
    for slab in slabs:
        if slab.ndim != 3 or slab.size == 0 or shape not in (None, slab.shape[1:]):
            raise ValueError(
                f"slab has shape {slab.shape}; slices (z, y, x) of {shape or 'a volume'} are needed"
            )
        shape = slab.shape[1:]
        yield slab


@compiled
def _fill(mask: Array, below: Array, above: Array, sides: int, settled: bool) -> tuple[Array, Array]:
    """Fill the holes of a uint8 mask (z, y, x) in place; only the last `sides` axes have a border.

    Run i of the background covers ``edge[2 * i] <= x < edge[2 * i + 1]``. The runs of a row are numbered from
    ``first[row]``; run 0 is the outside. A root is the lowest number of its set. The mask may be a slab. Then
    `below` is the slice that follows it (without rows if there is none), and `above` holds the parents of the
    runs of its first slice (empty for the first slab, or if that slice has no run). If `settled`, the
    background below is outside; otherwise background that reaches it becomes `OPEN`.

    Returns
    -------
    open_runs, next_above
        Parents of the open runs of the first slice, and of all runs of `below`, as far as this slab and those
        above connect them.
    """
    depth, height, width = mask.shape
    rows = depth * height + below.shape[0]
    # Count the runs first, so that the arrays for them have the exact size.
    first = np.ones(rows + 1, np.int64)
    for row in range(rows):
        z, y = row // height, row % height
        line = mask[z, y] if z < depth else below[y]
        runs = 1 - np.int64(line[0])
        for x in range(1, width):
            runs += np.int64(line[x - 1] & (line[x] ^ 1))
        first[row + 1] = first[row] + runs
    parent = np.zeros(first[-1], above.dtype)
    edge = np.empty(2 * first[-1] + 1, np.int32)  # the last entry is written but never read
    for row in range(rows):
        begin, end = first[row], first[row + 1]
        if begin == end:
            continue
        z, y = row // height, row % height
        line = mask[z, y] if z < depth else below[y]
        k, was = 2 * begin, np.uint8(1)
        for x in range(width):  # branch-free: each x is written, and kept only where the mask changes
            edge[k] = x
            k += np.int64(line[x] ^ was)
            was = line[x]
        edge[k] = width
        top, bottom = z == 0 and above.size == 0, settled if z == depth else row + height >= rows
        outer = (sides > 2 and (top or bottom)) or (sides > 1 and (y == 0 or y == height - 1))
        for i in range(begin, end):
            known = above[i - 1] if z == 0 and above.size > 0 else i
            parent[i] = 0 if outer or edge[2 * i] == 0 or edge[2 * i + 1] == width else known
        # Both lists of runs are sorted: walk along them, and join the runs that overlap in x.
        for other in (row - 1 if y > 0 else row, row - height if z > 0 else row):
            i, j = begin, first[other]
            while other != row and i < end and j < first[other + 1]:
                if edge[2 * i] < edge[2 * j + 1] and edge[2 * j] < edge[2 * i + 1]:
                    a, b = i, j
                    while parent[a] != a:
                        parent[a] = parent[parent[a]]
                        a = parent[a]
                    while parent[b] != b:
                        parent[b] = parent[parent[b]]
                        b = parent[b]
                    parent[max(a, b)] = min(a, b)
                if edge[2 * i + 1] <= edge[2 * j + 1]:
                    i += 1
                else:
                    j += 1
    for i in range(first[-1]):
        parent[i] = parent[parent[i]]  # parents have lower numbers and point to their root already
    inner = first[depth * height]
    next_above = np.zeros(first[-1] - inner, above.dtype)
    for i in range(len(next_above)):
        root = parent[inner + i]
        if root > 0:
            if parent[root] == root:
                parent[root] = -i - 1  # marks an open set with the first run of `below` that it reaches
            next_above[i] = -parent[root]
    # A mark is 0 for the outside, negative for an open set and positive for a hole.
    for row in range(depth * height):
        for i in range(first[row], first[row + 1]):
            mark = parent[i] if parent[i] <= 0 else parent[parent[i]]
            if mark != 0:
                mask[row // height, row % height, edge[2 * i] : edge[2 * i + 1]] = 1 if mark > 0 else 2
    # The open runs of the first slice are numbered from 1; a run's parent is the first one of its set.
    open_runs = np.empty(first[height] - 1, above.dtype)
    seen = np.zeros(len(next_above) + 1, above.dtype)
    count = 0
    for i in range(1, first[height]):
        mark = parent[i] if parent[i] <= 0 else parent[parent[i]]
        if mark < 0:
            count += 1
            if seen[-mark] == 0:
                seen[-mark] = count
            open_runs[count - 1] = seen[-mark]
    return open_runs[:count].copy(), next_above
