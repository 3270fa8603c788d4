"""A DICOM series of one file per slice.

In: a folder, or one file. Out: a volume that decodes one slice at a time. Stored values are kept where
one slope and intercept hold for all slices; where they differ, values are rescaled to float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom

from voxelmill.errors import FormatError
from voxelmill.geometry import Box, Geometry
from voxelmill.readers.common import Hints
from voxelmill.readers.dicom_files import dicom_files
from voxelmill.readers.dicom_series import Slice, choose_series, describe, read_slices, sort_slices
from voxelmill.volume import Slab, Volume


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a DICOM series; see `voxelmill.readers.open_volume`."""
    slices, notes = choose_series(read_slices(dicom_files(path)), hints.dicom_series)
    return _Series(*sort_slices(slices, hints.spacing), notes)


class _Series(Volume):
    def __init__(self, slices: Sequence[Slice], geometry: Geometry, notes: tuple[str, ...]) -> None:
        self._slices = slices
        self._is_uniform = len({(s.slope, s.intercept) for s in slices}) == 1
        stored = np.result_type(*{s.dtype for s in slices})
        super().__init__(
            geometry,
            stored if self._is_uniform else np.float32,
            slope=slices[0].slope if self._is_uniform else 1.0,
            intercept=slices[0].intercept if self._is_uniform else 0.0,
            modality=slices[0].modality,
            notes=notes,
        )

    def slabs(self, depth: int) -> Iterator[Slab]:
        for z in range(0, len(self._slices), depth):
            yield Slab(0, z, self._stack(self._slices[z : z + depth], (slice(None), slice(None))))

    def read(self, box: Box) -> npt.NDArray[Any]:
        along, *plane = box.slices
        return self._stack(self._slices[along], tuple(plane))

    def _stack(self, slices: Sequence[Slice], plane: tuple[slice, ...]) -> npt.NDArray[Any]:
        first = np.empty(self.geometry.shape[1:], bool)[plane]
        out = np.empty((1, len(slices), *first.shape), self.dtype)
        for z, piece in enumerate(slices):
            stored = _decode(piece)[plane]
            out[0, z] = stored if self._is_uniform else stored * piece.slope + piece.intercept
        return out


def _decode(piece: Slice) -> npt.NDArray[Any]:
    syntax = "unknown"
    try:
        data = pydicom.dcmread(piece.path)
        syntax = data.file_meta.TransferSyntaxUID.name
        pixels: npt.NDArray[Any] = data.pixel_array
    except Exception as error:  # whatever a pixel handler raises; it may quote names and tags
        raise FormatError(
            f"{describe(piece)} does not decode from {syntax} ({type(error).__name__}). "
            "Restore the file from its source."
        ) from None
    if pixels.shape != piece.shape or pixels.dtype.kind == "f":
        raise FormatError(
            f"{describe(piece)} decodes to {pixels.shape} {pixels.dtype}; integers of shape {piece.shape} "
            "are expected. Restore the file from its source."
        )
    return pixels
