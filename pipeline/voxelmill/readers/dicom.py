"""A DICOM series of one file per slice.

In: a folder, or one file. Out: a volume that decodes one slice at a time. Stored values are kept where
one slope and intercept hold for all slices; where they differ, values are rescaled to float32.
"""

from __future__ import annotations

import warnings
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
from voxelmill.volume import Convert, Slab, Volume, put

warnings.filterwarnings("ignore", module=r"pydicom\.")  # they quote values, and go to the terminal


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

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab: one slice as its file, decoded, and rescaled."""
        return self.slice_bytes * (4 if self._is_uniform else 16)

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Every voxel once; see `Volume.slabs`."""
        length, *plane = self.geometry.shape
        memory = np.empty((1, min(depth, length), *plane), self.dtype)
        for z in range(0, length, depth):
            data = memory[:, : min(depth, length - z)]
            for i in range(data.shape[1]):
                data[0, i] = self._plane(z + i)
            yield Slab(0, z, data)

    def fill(self, box: Box, out: npt.NDArray[Any], convert: Convert | None = None) -> None:
        """Put a (c, z, y, x) box into `out`, slice by slice."""
        for i, z in enumerate(range(box.start[1], box.stop[1])):
            put(out[0, i], self._plane(z)[box.slices[2:]].astype(self.dtype), convert)

    def _plane(self, z: int) -> npt.NDArray[Any]:
        piece = self._slices[z]
        stored = _decode(piece)
        return stored if self._is_uniform else stored * piece.slope + piece.intercept


def _decode(piece: Slice) -> npt.NDArray[Any]:
    syntax = "unknown"
    try:
        data = pydicom.dcmread(piece.path)
        syntax = data.file_meta.TransferSyntaxUID.name
        pixels: npt.NDArray[Any] = data.pixel_array
    except (KeyboardInterrupt, SystemExit):
        raise
    except (
        BaseException
    ) as error:  # whatever a pixel handler raises, a panic of Rust's too; it may quote names
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
