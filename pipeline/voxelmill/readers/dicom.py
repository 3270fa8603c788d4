"""A DICOM series: a file per slice, or files of many frames.

In: a folder, or one file. Out: a volume that decodes one slice at a time. Stored values are kept where
one slope and intercept hold for all slices; where they differ, values are rescaled to float32. Slices that
a setting puts in between are made of the two beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.geometry import Box
from voxelmill.readers.common import Hints
from voxelmill.readers.dicom_files import dicom_files
from voxelmill.readers.dicom_grid import Grid, make_grid
from voxelmill.readers.dicom_headers import read_slices
from voxelmill.readers.dicom_pixels import Pixels
from voxelmill.readers.dicom_series import choose_series
from voxelmill.readers.microscopy import Latest
from voxelmill.readers.uneven import blend
from voxelmill.volume import Convert, Slab, Volume, put


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a DICOM series; see `voxelmill.readers.open_volume`."""
    found, others = read_slices(dicom_files(path))
    slices, notes = choose_series(found, hints.dicom_series)
    return _Series(make_grid(slices, hints), (*others, *notes), hints.is_label)


class _Series(Volume):
    def __init__(self, grid: Grid, notes: tuple[str, ...], is_label: bool) -> None:
        self._slices, self._places, self._is_label = grid.slices, grid.places, is_label
        self._pixels = Pixels()
        first = grid.slices[0]
        self._is_blended = any(place.weight for place in grid.places)
        self._is_uniform = len({(s.slope, s.intercept) for s in grid.slices}) == 1
        stored = np.result_type(*{s.dtype for s in grid.slices})
        super().__init__(
            grid.geometry,
            stored if self._is_uniform else np.float32,
            slope=first.slope if self._is_uniform else 1.0,
            intercept=first.intercept if self._is_uniform else 0.0,
            modality=first.modality,
            notes=(*notes, *grid.notes),
            repairs=grid.repairs,
        )

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab.

        One slice as its file, decoded, and rescaled; where slices are made, two more that are decoded, the
        one that is made, and its float64.
        """
        blending = self.slice_bytes * 3 + self.slice_bytes // self.dtype.itemsize * 8
        return self.slice_bytes * (4 if self._is_uniform else 16) + (blending if self._is_blended else 0)

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Every voxel once; see `Volume.slabs`."""
        length, *plane = self.geometry.shape
        memory = np.empty((1, min(depth, length), *plane), self.dtype)
        planes = self._planes()
        for z in range(0, length, depth):
            data = memory[:, : min(depth, length - z)]
            for i in range(data.shape[1]):
                data[0, i] = planes(z + i)
            yield Slab(0, z, data)

    def fill(self, box: Box, out: npt.NDArray[Any], convert: Convert | None = None) -> None:
        """Put a (c, z, y, x) box into `out`, slice by slice."""
        planes = self._planes()
        for i, z in enumerate(range(box.start[1], box.stop[1])):
            put(out[0, i], planes(z)[box.slices[2:]], convert)

    def _planes(self) -> Callable[[int], npt.NDArray[Any]]:
        """Slices by their number; asked for in order, each file is decoded once, and two at most are held."""
        if not self._is_blended:
            return lambda z: self._decoded(self._places[z].first)
        even, odd = Latest(self._decoded), Latest(self._decoded)  # two neighbours are never in one of them

        def plane(z: int) -> npt.NDArray[Any]:
            place = self._places[z]
            first = (even, odd)[place.first % 2][place.first]
            if not place.weight:
                return first
            second = (odd, even)[place.first % 2][place.first + 1]
            return blend(first, second, place.weight, self._is_label)

        return plane

    def _decoded(self, number: int) -> npt.NDArray[Any]:
        piece = self._slices[number]
        stored = self._pixels.decode(piece)
        values = stored if self._is_uniform else stored * piece.slope + piece.intercept
        return values.astype(self.dtype, copy=False)
