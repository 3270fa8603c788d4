"""Source volumes from a formula, written slab by slab; any box of them can be computed again on its own.

In: a size and a format. Out: a folder with one image, and its `Truth`. The module does not use voxelmill.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numba
import numpy as np

SPACING = 0.8  # millimetres


@dataclass(frozen=True)
class Volume:
    """A source of about `bytes` bytes uncompressed, in the format of `ending`."""

    name: str
    ending: str
    bytes: float


# The formula: a body with rounded edges, filled with waves and noise; holes of zero; a bite out of one edge.

BODY = 0.9  # fraction of each axis; outside of it every voxel is zero
HOLES = ((-0.4, 0.1, -0.3, 0.15), (0.3, -0.35, 0.25, 0.12), (0.1, 0.45, 0.4, 0.06))  # z, y, x, radius
BITE = (0.0, 0.9, 0.9, 0.3)  # open to the outside, so not filled
VALUES = 2048  # all values are below this

Bounds = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Truth:
    """The exact facts of a source: its shape (z, y, x), and the histogram of the filled mask."""

    shape: tuple[int, int, int]
    counts: Any

    @property
    def voxels(self) -> int:
        """Number of voxels of the source."""
        return math.prod(self.shape)

    @property
    def crop_box(self) -> list[tuple[int, int]]:
        """Extent of the body in voxels, half-open, along each axis through the middle of the other two."""
        nearest = [min(abs(place(i, n)) for i in (n // 2 - 1, n // 2)) ** 4 for n in self.shape]
        halves = [(1 - sum(nearest) + own) ** 0.25 for own in nearest]
        return [span(0.0, half, n, 0, n) for half, n in zip(halves, self.shape, strict=True)]

    def statistics(self) -> dict[str, float]:
        """Return the statistics of the filled mask, under the names of fingerprint.json."""
        values, cumulated = np.arange(VALUES), np.cumsum(self.counts)
        mean = float(self.counts @ values / cumulated[-1])
        low, middle, high = (
            float(np.searchsorted(cumulated, p / 100 * cumulated[-1])) for p in (0.5, 50, 99.5)
        )
        return {
            "mean": mean,
            "std": math.sqrt(self.counts @ (values - mean) ** 2 / cumulated[-1]),
            "min": float(np.flatnonzero(self.counts)[0]),
            "max": float(np.flatnonzero(self.counts)[-1]),
            "percentile_00_5": low,
            "median": middle,
            "percentile_99_5": high,
        }


def shape_of(size: float) -> tuple[int, int, int]:
    """Return the shape (z, y, x) of an int16 volume of about `size` bytes with sides 3:4:5."""
    unit = (size / 2 / 60) ** (1 / 3)
    return round(3 * unit), round(4 * unit), round(5 * unit)


def box_of(shape: Sequence[int], bounds: Bounds) -> Any:
    """Return a box of a source, int16; `bounds` are half-open, in voxels, z, y, x."""
    out = np.empty([b - a for a, b in bounds], np.int16)
    fill(out, tuple(a for a, _ in bounds), tuple(shape), waves(shape), np.zeros(VALUES, np.int64))
    return out


def slabs(shape: Sequence[int], counts: Any) -> Iterator[Any]:
    """Yield a whole source in slabs of about 32 MiB, each of which overwrites the last; add to `counts`."""
    depth, waves_of = max(1, 2**25 // (2 * shape[1] * shape[2])), waves(shape)
    buffer = np.empty((depth, *shape[1:]), np.int16)
    for z in range(0, shape[0], depth):
        slab = buffer[: min(depth, shape[0] - z)]
        fill(slab, (z, 0, 0), tuple(shape), waves_of, counts)
        yield slab


def waves(shape: Sequence[int]) -> tuple[Any, ...]:
    """Return the sum of two sines along each axis, between -1 and 1."""
    axes = [np.arange(n) for n in shape]
    return tuple((0.6 * np.sin(i / 13) + 0.4 * np.sin(i / 4.7 + 1)).astype(np.float32) for i in axes)


@numba.njit(nogil=True)
def place(index: int, size: int) -> float:
    """Return the coordinate of a voxel along an axis; the body extends from -1 to 1."""
    return float(((index + 0.5) / size * 2 - 1) / BODY)


@numba.njit(nogil=True)
def span(centre: float, half: float, size: int, start: int, stop: int) -> tuple[int, int]:
    """Return the voxels of a row within `half` of `centre`, clipped to [start, stop), relative to `start`."""
    low = math.ceil(((centre - half) * BODY + 1) * size / 2 - 0.5)
    high = math.floor(((centre + half) * BODY + 1) * size / 2 - 0.5) + 1
    first = min(max(low, start), stop) - start
    return first, max(min(high, stop) - start, first)


@numba.njit(nogil=True)
def hole_span(hole: Any, z: float, y: float, size: int, start: int, stop: int) -> tuple[int, int]:
    """Return the voxels of a row that are inside a hole, as in `span`."""
    rest = hole[3] ** 2 - (z - hole[0]) ** 2 - (y - hole[1]) ** 2
    return span(hole[2], math.sqrt(max(rest, 0.0)), size, start, stop) if rest > 0 else (0, 0)


@numba.njit(nogil=True)
def scramble(number: int) -> Any:
    """Hash a number to 32 pseudo-random bits."""
    h = np.uint32(number)
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@numba.njit(nogil=True)
def tissue(row: Any, seed: Any, amplitude: Any, wave: Any, start: int) -> None:
    """Write the values of a row inside the body: waves plus 6 bits of noise."""
    for i in range(row.size):
        noise = scramble(seed + np.uint32(start + i) * np.uint32(0x9E3779B1)) >> np.uint32(26)
        row[i] = np.int16(np.float32(1000) + amplitude * wave[start + i]) + np.int16(noise)


@numba.njit(nogil=True)
def fill(out: Any, start: Any, shape: Any, waves_of: Any, counts: Any) -> None:
    """Write the values of a box, and add the histogram of the filled mask to `counts`.

    Holes are inside the filled mask and count as zeros; the bite is open to the outside and does not count.
    """
    x0, x1, size = start[2], start[2] + out.shape[2], shape[2]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            row, z, y = out[i, j], start[0] + i, start[1] + j
            row[:] = 0
            u, v = place(z, shape[0]), place(y, shape[1])
            rest = 1 - u**4 - v**4
            if rest <= 0:
                continue
            a, b = span(0.0, rest**0.25, size, x0, x1)
            seed = scramble(scramble(z) + np.uint32(y))
            tissue(row[a:b], seed, np.float32(400) * waves_of[0][z] * waves_of[1][y], waves_of[2], x0 + a)
            for hole in HOLES:
                c, d = hole_span(hole, u, v, size, x0, x1)
                row[c:d] = 0
                counts[0] += d - c
            c, d = hole_span(BITE, u, v, size, x0, x1)
            row[c:d] = 0
            for value in row[a:b]:
                if value != 0:
                    counts[value] += 1


# Files.


def write_source(folder: Path, volume: Volume) -> Truth:
    """Write a folder with one image, and return its facts."""
    folder.mkdir()
    truth = Truth(shape_of(volume.bytes), np.zeros(VALUES, np.int64))
    write = write_metaimage if volume.ending == ".mhd" else write_nifti
    write(folder / f"case{volume.ending}", truth.shape, slabs(truth.shape, truth.counts))
    for path in folder.iterdir():
        forget(path)
    return truth


def write_metaimage(path: Path, shape: Sequence[int], data: Iterator[Any]) -> None:
    """Write a MetaImage header and its raw data."""
    raw = path.with_suffix(".raw")
    z, y, x = shape
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {x} {y} {z}\nElementType = MET_SHORT\n"
        f"ElementSpacing = {SPACING} {SPACING} {SPACING}\nElementByteOrderMSB = False\n"
        f"ElementDataFile = {raw.name}\n"
    )
    with raw.open("wb") as file:
        for slab in data:
            file.write(slab)


def write_nifti(path: Path, shape: Sequence[int], data: Iterator[Any]) -> None:
    """Write a NIfTI file as one gzip stream."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape[::-1])
    header.set_sform(np.diag([SPACING, SPACING, SPACING, 1]), 1)
    header.set_zooms([SPACING] * 3)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with open_gzip(path) as file:
        file.write(header.binaryblock + bytes(4))
        for slab in data:
            file.write(slab)


def open_gzip(path: Path) -> Any:
    """Open a gzip file for writing, with isal if it is installed: it is several times as fast as zlib."""
    try:
        from isal import igzip
    except ImportError:
        return gzip.open(path, "wb", 1)
    return igzip.open(path, "wb", 1)


def forget(path: Path) -> None:
    """Flush a file to disk and drop it from the page cache, so that small and large files are read alike."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
