"""The reader for a DICOM series: one file per slice, or multi-frame files.

In: a folder or a file. Out: a volume that decodes one slice at a time. Stored values are kept if all slices
have the same slope and intercept; otherwise values are rescaled to float32. Slices that a setting adds are
interpolated from their two neighbours. Padding voxels take the lowest value of all others, which a first pass
over the series determines before any voxel is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Box
from voxelmill.basics.volume import Convert, Slab, Volume, put
from voxelmill.inputs.readers.dicom.choose_series import choose_series
from voxelmill.inputs.readers.dicom.dicom_files import dicom_files
from voxelmill.inputs.readers.dicom.pixel_padding import find_lowest
from voxelmill.inputs.readers.dicom.slice_grid import Grid, make_grid
from voxelmill.inputs.readers.dicom.slice_headers import Slice, read_slices
from voxelmill.inputs.readers.dicom.slice_pixels import Pixels
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.uneven_slices import slice_maker


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a DICOM series; see `voxelmill.inputs.readers.formats.open_volume`."""
    found, others = read_slices(dicom_files(path))
    slices, notes = choose_series(found, hints.dicom_series)
    return _Series(make_grid(slices, hints), (*others, *notes), hints)


class _Series(Volume):
    def __init__(self, grid: Grid, notes: tuple[str, ...], hints: Hints) -> None:
        self._slices, self._places, self._is_label = grid.slices, grid.places, hints.is_label
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
        stated = (s.padding.words(s.slope, s.intercept) for s in grid.slices if s.padding)
        self._padding = None if hints.is_label else next(stated, None)
        self._is_replaced = self._padding is not None and hints.dicom_padding == "minimum"
        if self._padding is not None and not self._is_replaced:
            self.notes += (f"{self._padding} is kept",)

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab.

        These are one slice as a file, decoded, and rescaled; if slices are interpolated, two more decoded
        slices, the result, and its float64 copy; if padding is replaced, masks and a copy.
        """
        voxels = self.slice_bytes // self.dtype.itemsize
        blending = self.slice_bytes * 3 + voxels * 8 if self._is_blended else 0
        replacing = self.slice_bytes + voxels * 3 if self._is_replaced else 0
        return self.slice_bytes * (4 if self._is_uniform else 16) + blending + replacing

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Yield every voxel once; see `Volume.slabs`."""
        length, *plane = self.geometry.shape
        memory = np.empty((1, min(depth, length), *plane), self.dtype)
        planes = self._planes()
        for z in range(0, length, depth):
            data = memory[:, : min(depth, length - z)]
            for i in range(data.shape[1]):
                data[0, i] = planes(z + i)
            yield Slab(0, z, data)

    def fill(self, box: Box, out: npt.NDArray[Any], convert: Convert | None = None) -> None:
        """Read a (c, z, y, x) box into `out`, slice by slice."""
        planes = self._planes()
        for i, z in enumerate(range(box.start[1], box.stop[1])):
            put(out[0, i], planes(z)[box.slices[2:]], convert)

    def _planes(self) -> Callable[[int], npt.NDArray[Any]]:
        """Return a function from slice number to plane; in order, it decodes each file once and holds two."""
        if not self._is_blended:
            return lambda z: self._decoded(self._places[z].first)
        plane = slice_maker(self._decoded, self._is_label)
        return lambda z: plane(self._places[z])

    def _decoded(self, number: int) -> npt.NDArray[Any]:
        lowest = self._lowest if self._is_replaced else None
        values, mask = self._masked(self._slices[number])
        return values if lowest is None or mask is None else np.where(mask, lowest, values)

    def _masked(self, piece: Slice) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
        """Return the values of a slice, and the mask of the padding to replace, if any."""
        stored = self._pixels.decode(piece)
        mask = piece.padding.mask(stored) if self._is_replaced and piece.padding else None
        values = stored if self._is_uniform else stored * piece.slope + piece.intercept
        return values.astype(self.dtype, copy=False), mask

    @cached_property
    def _lowest(self) -> Any:
        """The lowest stored value that is not padding; None if there is nothing to replace."""
        found = find_lowest(map(self._masked, self._slices), is_falling=self.slope < 0)
        if not found.count or found.lowest is None:
            return None
        lowest = float(found.lowest) * self.slope + self.intercept
        what = f"{self._padding} in {found.count} voxels became {lowest:g}, the lowest of all others"
        self.notes += (what,)
        return self.dtype.type(found.lowest)
