"""This module decodes one DICOM slice: a single-frame file, or one frame of a multi-frame file.

In: a `Slice`. Out: its plane of stored integers. Of a multi-frame file only the requested frame is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy.typing as npt
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless

from voxelmill.basics.errors import FormatError
from voxelmill.inputs.readers.dicom.pydicom_read import read_dicom
from voxelmill.inputs.readers.dicom.pydicom_silenced import quiet
from voxelmill.inputs.readers.dicom.slice_headers import Slice, describe

DECODERS = {
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000), "pylibjpeg"),
}
"""Decoding plugins to use instead of GDCM, which kills the process on some damaged slices."""

_TAGS = [
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PlanarConfiguration",
    "Rows",
    "SamplesPerPixel",
]


@dataclass(frozen=True)
class _Frames:
    """The frames of a file: the byte at which they begin, and the options of pydicom's decoder."""

    path: Path
    begin: int
    syntax: UID
    options: dict[str, Any]


class Pixels:
    """A decoder of slices, which caches the header of the last multi-frame file."""

    def __init__(self) -> None:
        self._latest: _Frames | None = None

    def decode(self, piece: Slice) -> npt.NDArray[Any]:
        """Return the stored values of a slice, shape (rows, columns).

        Raises
        ------
        FormatError
            If the pixels do not decode, or not to integers of the shape that the header states.
        """
        try:
            with quiet():
                pixels = _only(piece.path) if piece.frame is None else self._frame(piece.path, piece.frame)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a plugin may raise anything, even a Rust panic, and may quote names
            raise FormatError(
                f"{describe(piece)} does not decode from {piece.syntax} ({type(error).__name__}). "
                "Restore the file from its source."
            ) from None
        if pixels.shape != piece.shape or pixels.dtype.kind == "f":
            raise FormatError(
                f"{describe(piece)} decodes to {pixels.shape} {pixels.dtype}; integers of shape "
                f"{piece.shape} are expected. Restore the file from its source."
            )
        return pixels

    def _frame(self, path: Path, index: int) -> npt.NDArray[Any]:
        found = self._latest  # a local copy: another thread may replace it
        if found is None or found.path != path:
            found = self._latest = _find_frames(path)
        return _decode_frame(found, index)


def _only(path: Path) -> npt.NDArray[Any]:
    data = read_dicom(path)
    data.pixel_array_options(decoding_plugin=DECODERS.get(data.file_meta.TransferSyntaxUID, ""))
    pixels: npt.NDArray[Any] = data.pixel_array
    return pixels


def _find_frames(path: Path) -> _Frames:
    """Read the header of a file, up to its frames."""
    with path.open("rb") as file:
        header = read_dicom(path, file, stop_before_pixels=True, specific_tags=list(_TAGS))
        syntax = header.file_meta.TransferSyntaxUID
        options = as_pixel_options(header, transfer_syntax_uid=syntax, **_pixel_element(file, syntax))
        return _Frames(path, file.tell(), syntax, options)


def _pixel_element(file: BinaryIO, syntax: UID) -> dict[str, str]:
    """Read the tag and length of the PixelData element; the file is then at its value."""
    order = "<" if syntax.is_little_endian else ">"
    group, element, kind = struct.unpack(f"{order}HH4s", file.read(8))
    if (group, element) != (0x7FE0, 0x0010):
        raise ValueError("no PixelData")
    if syntax.is_implicit_VR:
        return {"pixel_keyword": "PixelData", "pixel_vr": "OW"}
    file.read(4)  # the length
    return {"pixel_keyword": "PixelData", "pixel_vr": kind[:2].decode("ascii")}


def _decode_frame(frames: _Frames, index: int) -> npt.NDArray[Any]:
    """Decode one frame, counted from 0."""
    with frames.path.open("rb") as file:
        file.seek(frames.begin)
        plugin = DECODERS.get(frames.syntax, "")
        pixels: npt.NDArray[Any] = get_decoder(frames.syntax).as_array(
            file, index=index, decoding_plugin=plugin, **frames.options
        )[0]
    return pixels
