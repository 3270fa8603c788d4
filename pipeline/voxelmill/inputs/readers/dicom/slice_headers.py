"""Slice records made from DICOM headers: the position of each slice and the storage of its values.

In: paths of DICOM files. Out: a `Slice` per file, or per frame. This module reads headers only, and only the
tags listed here. Messages name slices by position, InstanceNumber and frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from voxelmill.basics.errors import FormatError, GeometryError
from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.inputs.readers.dicom.multi_frame import EACH, SHARED, count_frames, split
from voxelmill.inputs.readers.dicom.pixel_padding import Padding, stated_padding
from voxelmill.inputs.readers.dicom.pydicom_read import read_dicom
from voxelmill.inputs.readers.dicom.pydicom_silenced import quiet

TAGS = [
    EACH,
    SHARED,
    "BitsAllocated",
    "BitsStored",
    "BurnedInAnnotation",
    "Columns",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InstanceNumber",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SOPClassUID",
    "SliceThickness",
    "SpacingBetweenSlices",
]
"""The tags that are read from headers: neither names nor dates."""

_PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
# upper bound of what any codec decodes: bytes per stored byte, plus a constant for tiny images
_MAX_RATIO, _MAX_SMALL = 4096, 1 << 16
_UNREADABLE = (InvalidDicomError, ValueError, TypeError, LookupError, AttributeError, EOFError)


@dataclass(frozen=True)
class Slice:
    """The header of one DICOM file, or of one frame of it.

    Vectors are x, y, z in millimetres, in DICOM's patient coordinates (LPS).

    Attributes
    ----------
    path : Path
        The file.
    frame : int or None
        From 0; None if the file describes no frames.
    uid : str
        SeriesInstanceUID, which never goes into messages.
    number : int or None
        InstanceNumber.
    shape : (rows, columns)
        In pixels: y, x.
    position : (x, y, z)
        ImagePositionPatient: the centre of the first voxel.
    orientation : tuple of six float
        ImageOrientationPatient: unit vectors along a row and along a column.
    spacing : (rows, columns)
        PixelSpacing in millimetres: y, x.
    thickness : float or None
        SpacingBetweenSlices, or else SliceThickness, in millimetres.
    slope, intercept : float
        ``value = stored * slope + intercept``.
    padding : Padding or None
        Stored values that mark padding.
    dtype : str
        Type of the stored values, as NumPy names it, such as "i2".
    pixel_bytes : int
        Decoded size of the pixels of the whole file.
    file_bytes : int
        Size of the file.
    syntax : str
        Name of the transfer syntax.
    problem : str or None
        Why the image cannot be part of a volume.
    """

    path: Path
    frame: int | None
    uid: str
    series_number: int
    number: int | None
    shape: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None
    slope: float
    intercept: float
    padding: Padding | None
    dtype: str
    modality: str | None
    is_localizer: bool
    is_burned_in: bool
    pixel_bytes: int
    file_bytes: int
    syntax: str
    is_compressed: bool
    problem: str | None

    def along(self, normal: npt.NDArray[np.float64]) -> float:
        """Return the position along a unit normal, in millimetres."""
        return float(np.dot(self.position, normal))

    @property
    def asks_too_much(self) -> bool:
        """Whether the header asks for more pixels than the file can hold."""
        ratio, besides = (_MAX_RATIO, _MAX_SMALL) if self.is_compressed else (1, 0)
        return self.pixel_bytes > ratio * self.file_bytes + besides


def read_slices(paths: Iterable[Path]) -> tuple[list[Slice], tuple[str, ...]]:
    """Read the headers of all files that hold an image.

    Returns
    -------
    slices : list of Slice
        One per file or frame, in the order of the files.
    notes : tuple of str
        A note on files that are no images, such as reports.

    Raises
    ------
    FormatError
        If a header cannot be read.
    """
    slices, others = list[Slice](), 0
    for index, path in enumerate(paths, 1):
        try:
            with quiet():
                header = read_dicom(path, stop_before_pixels=True, specific_tags=list(TAGS))
                if _is_image(header):
                    slices += _slices(path, header)
                else:
                    others += 1
        except _UNREADABLE as error:
            if isinstance(error, AttributeError) and is_own_fault(error):
                raise
            raise FormatError(
                f"DICOM file {index} in the order of names has a header that cannot be read. "
                "Restore the file, or take it away."
            ) from None
    return slices, (f"{others} DICOM file(s) without an image set aside",) if others else ()


def _is_image(header: Any) -> bool:
    """Return whether a file is an image; raise ValueError if it ends before its SOP class or rows."""
    kind = header.get("SOPClassUID") or getattr(header.file_meta, "MediaStorageSOPClassUID", None)
    if "Rows" in header:
        return True
    if kind is None or UID(str(kind)).name.endswith("Image Storage"):
        raise ValueError("cut short, or no DICOM but for its mark")
    return False


def axes(piece: Slice) -> tuple[npt.NDArray[np.float64], ...]:
    """Return unit vectors along a row, along a column, and from slice to slice (normal), each x, y, z.

    They are made orthogonal, because headers written with three or four decimals are slightly off.

    Raises
    ------
    GeometryError
        If ImageOrientationPatient is not two vectors at right angles.
    """
    row, column = np.reshape(piece.orientation, (2, 3))
    lengths = np.linalg.norm(row) * np.linalg.norm(column)
    if not lengths > 0 or abs(np.dot(row, column)) > 1e-3 * lengths:
        raise GeometryError(
            f"ImageOrientationPatient is {piece.orientation}; two vectors at right angles are needed. "
            "Restore the series from its source."
        )
    normal = np.cross(row, column)
    return tuple(np.asarray(v / np.linalg.norm(v), float) for v in (row, np.cross(normal, row), normal))


def describe(piece: Slice) -> str:
    """Return the name of a slice in messages."""
    z = f"{piece.along(axes(piece)[2]):.2f} mm" if piece.orientation else "an unknown position"
    frame = "" if piece.frame is None else f", frame {piece.frame + 1}"
    return f"the slice at {z} (InstanceNumber {piece.number}{frame})"


def _slices(path: Path, header: Any) -> list[Slice]:
    """Return a slice per frame, or one slice with a problem if the frames are not described."""
    frames = [_slice(path, frame, number) for number, frame in enumerate(split(header))]
    return frames or [_slice(path, header, None)]


def _slice(path: Path, header: Any, frame: int | None) -> Slice:
    def floats(name: str) -> tuple[float, ...]:
        return tuple(float(v) for v in (header.get(name) or ()))

    kind = "i" if header.get("PixelRepresentation", 0) else "u"
    thickness = header.get("SpacingBetweenSlices") or header.get("SliceThickness")
    number = header.get("InstanceNumber")
    slope, intercept = _number(header.get("RescaleSlope"), 1.0), _number(header.get("RescaleIntercept"), 0.0)
    samples, bits = int(header.get("SamplesPerPixel") or 1), int(_required(header, "BitsAllocated"))
    rows, columns = int(_required(header, "Rows")), int(_required(header, "Columns"))
    syntax = header.file_meta.get("TransferSyntaxUID")
    return Slice(
        path=path,
        frame=frame,
        uid=str(header.get("SeriesInstanceUID", "")),
        series_number=int(header.get("SeriesNumber") or 0),
        number=None if number is None else int(number),
        shape=(rows, columns),
        position=floats("ImagePositionPatient"),
        orientation=floats("ImageOrientationPatient"),
        spacing=floats("PixelSpacing"),
        thickness=abs(float(thickness)) if thickness else None,
        slope=slope,
        intercept=intercept,
        padding=stated_padding(header, slope, intercept),
        dtype=f"{kind}{bits // 8}",
        modality=header.get("Modality"),
        is_localizer="LOCALIZER" in (header.get("ImageType") or ()),
        is_burned_in=header.get("BurnedInAnnotation") == "YES",
        pixel_bytes=rows * columns * samples * bits // 8 * count_frames(header),
        file_bytes=path.stat().st_size,
        syntax="unknown" if syntax is None else UID(str(syntax)).name,
        is_compressed=syntax not in _PLAIN,
        problem=_problem(header, frame),
    )


def _required(header: Any, name: str) -> Any:
    """Return the value of an element; raise KeyError if it is missing."""
    return header[name].value


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _problem(header: Any, frame: int | None) -> str | None:
    """Return why an image cannot be part of a volume, or None."""
    photometric = str(header.get("PhotometricInterpretation", ""))
    frames, described = count_frames(header), len(header.get(EACH) or ())
    if frame is None and (frames > 1 or described):
        return (
            f"a DICOM file is multi-frame and holds {frames} frames, but describes where {described} of them "
            "lie. Restore it, or convert it to one file per frame or to NIfTI."
        )
    if frame is not None and header.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return "a DICOM file is multi-frame and deflated as a whole. Convert it to an uncompressed one."
    if not photometric.startswith("MONOCHROME") or header.get("SamplesPerPixel", 1) != 1:
        return f"the DICOM images are {photometric}; MONOCHROME is read. Take the series before colouring."
    if header.Rows < 1 or header.Columns < 1:
        return f"the DICOM images have {header.Rows} rows and {header.Columns} columns. Restore the series."
    if int(header.BitsAllocated) not in (8, 16, 32):
        return (
            f"the DICOM images have {header.BitsAllocated} bits a pixel; 8, 16 and 32 are read. Convert them."
        )
    if "ModalityLUTSequence" in header:
        return "the DICOM images have a modality look-up table; slope and intercept are read. Convert them."
    if not (
        _is_vector(header, "ImagePositionPatient", 3) and _is_vector(header, "ImageOrientationPatient", 6)
    ):
        return "the DICOM images state no position or orientation. Restore the series from its source."
    return None


def _is_vector(header: Any, name: str, length: int) -> bool:
    numbers = header.get(name) or ()
    return len(numbers) == length and all(math.isfinite(v) for v in numbers)
