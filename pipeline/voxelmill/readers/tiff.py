"""TIFF: one file of pages, or a folder of one-page files in the order of their names.

In: a path. Out: a volume along the world's axes that holds a page at a time; pages that lie one after
another uncompressed are mapped. Knows no tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffFile

from voxelmill.errors import FormatError
from voxelmill.geometry import Box, Geometry
from voxelmill.readers.common import Hints, readable
from voxelmill.readers.folders import tiff_files
from voxelmill.readers.microscopy import Array, complete_spacing
from voxelmill.readers.tiff_pages import Layout, Plane, is_contiguous, layout_of, open_tiff, plane_reader
from voxelmill.readers.tiff_spacing import ome_pixels, stated_spacing
from voxelmill.volume import Convert, Slab, Volume, put


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a TIFF file or a folder of pages; see `voxelmill.readers.open_volume`."""
    files = tiff_files(path) if path.is_dir() else [path]
    if not files:
        raise FormatError("the folder holds no TIFF file; one a slice is needed. Name another folder.")
    with open_tiff(files[0]) as tif:
        layout = layout_of(tif)
        plane_reader(tif, files[0], layout)  # refuses a file that is too short
        is_mapped = len(files) == 1 and is_contiguous(tif)
        if len(files) > 1:
            _check_page(layout, ome_pixels(tif))
        elif tif.is_ome and tif.series[0].kind != "ome":
            raise FormatError(
                "the OME metadata do not fit the pages of this TIFF; they may be spread over several files. "
                "Name the folder where each file is one slice, or join them into one file."
            )
        slices = layout.size("Z") * len(files)
        spacing = hints.spacing or complete_spacing(stated_spacing(tif), slices, "the TIFF")
    geometry = Geometry((slices, layout.size("Y"), layout.size("X")), spacing)
    return _Pages(geometry, files, layout, is_mapped)


class _Pages(Volume):
    def __init__(self, geometry: Geometry, files: Sequence[Path], layout: Layout, is_mapped: bool) -> None:
        self._files = files
        self._layout = layout
        self._samples = layout.size("S")
        super().__init__(geometry, layout.dtype, channels=layout.size("C") * self._samples)
        self.together = self._samples
        self.is_random_access = is_mapped

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab: one page, and what it is decoded from."""
        return 0 if self.is_random_access else 3 * self._layout.page_bytes

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Every voxel once; see `Volume.slabs`."""
        length, *plane = self.geometry.shape
        memory = np.empty((self.together, min(depth, length), *plane), self.dtype)
        with readable(), self._open() as pages:
            for channel in range(self._layout.size("C")):
                for z in range(0, length, depth):
                    data = memory[:, : min(depth, length - z)]
                    for i in range(data.shape[1]):
                        data[:, i] = pages(channel, z + i)
                    yield Slab(channel * self._samples, z, data)

    def fill(self, box: Box, out: Array, convert: Convert | None = None) -> None:
        """Put a (c, z, y, x) box into `out`, page by page."""
        with readable(), self._open() as pages:
            for part in box.cells((self._samples, 1, *self.geometry.shape[1:])):
                first, z = part.start[0] // self._samples, part.start[1]
                samples = slice(part.start[0] % self._samples, (part.stop[0] - 1) % self._samples + 1)
                page = np.ascontiguousarray(pages(first, z)[samples, *part.slices[2:]], self.dtype)
                put(out[part.shift([-n for n in box.start]).slices], page[:, None], convert)

    @contextmanager
    def _open(self) -> Iterator[Plane]:
        if len(self._files) > 1:
            yield self._page
        else:
            with open_tiff(self._files[0]) as tif:
                yield self._reader(tif, self._files[0], "the TIFF")

    def _page(self, channel: int, z: int) -> Array:
        with open_tiff(self._files[z]) as tif:
            return self._reader(tif, self._files[z], f"file {z} (from 0) of the TIFF stack")(channel, 0)

    def _reader(self, tif: TiffFile, path: Path, what: str) -> Plane:
        _check_same(self._layout, layout_of(tif), what)
        return plane_reader(tif, path, self._layout)


def _check_page(layout: Layout, ome: Any) -> None:
    """Refuse a stack whose first file is more than one page, or one of several channels or times."""
    pages = layout.size("Z") * layout.size("C")
    if pages > 1:
        raise FormatError(
            f"the folder holds several TIFF files, of which the first has {pages} pages; a stack has "
            "files of one page each. Name one of the files."
        )
    spread = {axis: int(ome.get(axis, 1)) for axis in ("SizeC", "SizeT")}
    if spread["SizeC"] > layout.size("S") or spread["SizeT"] > 1:
        raise FormatError(
            f"the TIFF stack is spread over files by more than z (OME: {spread['SizeC']} channels, "
            f"{spread['SizeT']} time points). Join it into one file."
        )


def _check_same(expected: Layout, found: Layout, what: str) -> None:
    if found != expected:
        shapes = " and ".join(f"{e.axes} {e.shape} {e.dtype}" for e in (found, expected))
        raise FormatError(f"{what} differs from what was opened: {shapes}. Restore it from its source.")
