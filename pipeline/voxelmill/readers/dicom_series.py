"""Which DICOM files make one regular grid.

In: paths of DICOM files. Out: the slices of one series, sorted along their normal, and their `Geometry`.
Reads headers only. Messages name slices by position and InstanceNumber, series by number and UID.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError

from voxelmill.errors import FormatError, GeometryError, SpacingError
from voxelmill.geometry import Geometry, Triple

TAGS = [
    "BitsAllocated",
    "Columns",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "ImageType",
    "InstanceNumber",
    "Modality",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SliceThickness",
    "SpacingBetweenSlices",
]
STEP_TOLERANCE = 0.01  # of the distance between slices, but no less than
ROUNDING_MM = 0.021  # what steps differ by where positions are rounded to 0.01
TILT_PIXELS, TILT_SLOPE = 0.1, 0.002  # sideways shift accepted: pixels, and of the way along the normal


@dataclass(frozen=True)
class Slice:
    """One DICOM file: what its header says of where it lies and how its values are stored.

    Vectors are DICOM's own x, y, z; `spacing` is in rows (y), columns (x).
    """

    path: Path
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
    dtype: str
    modality: str | None
    is_localizer: bool
    problem: str | None

    def along(self, normal: npt.NDArray[np.float64]) -> float:
        """Millimetres along the normal of the series."""
        return float(np.dot(self.position, normal))


def read_slices(paths: Iterable[Path]) -> list[Slice]:
    """The headers of all files that hold an image."""
    slices = []
    for index, path in enumerate(paths, 1):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
            if "Rows" in header:
                slices.append(_slice(path, header))
        except (InvalidDicomError, ValueError, TypeError, IndexError, AttributeError, EOFError):
            raise FormatError(
                f"DICOM file {index} in the order of names has a header that cannot be read. "
                "Restore the file, or take it away."
            ) from None
    return slices


def choose_series(slices: Sequence[Slice], chosen: str | None) -> tuple[list[Slice], tuple[str, ...]]:
    """The slices of one series, and notes on what was set aside: localisers.

    Parameters
    ----------
    chosen : str or None
        SeriesInstanceUID or number, from 1, of the series to take; needed where there are several.
    """
    kept = [s for s in slices if not s.is_localizer]
    numbers = ", ".join(str(s.number) for s in slices if s.is_localizer)
    left_out = len(slices) - len(kept)
    notes = (f"{left_out} localiser(s) set aside: InstanceNumber {numbers}",) if left_out else ()
    series = sorted(_group(kept), key=lambda group: (group[0].series_number, group[0].uid, group[0].shape))
    if not series:
        raise FormatError(
            "the folder holds no DICOM image but localisers. Name a folder that holds a series."
        )
    matching = [g for n, g in enumerate(series, 1) if chosen in (None, str(n), g[0].uid)]
    if len(matching) == 1:
        return matching[0], notes
    listed = "; ".join(f"{n}: {_describe(group)}" for n, group in enumerate(series, 1))
    found = f"{len(matching)} series match {chosen!r}" if chosen else f"the folder holds {len(series)} series"
    raise GeometryError(
        f"{found}, one is needed: {listed}. Set dicom.series to a number or a SeriesInstanceUID, "
        "or give each series its own folder."
    )


def sort_slices(series: Sequence[Slice], spacing: Triple | None) -> tuple[list[Slice], Geometry]:
    """The slices in order of position along their normal, and the grid that they make.

    Raises
    ------
    SpacingError
        If positions repeat or steps differ, or a single slice states no thickness.
    GeometryError
        If the gantry is tilted, or the slices differ in the distance between pixels.
    """
    problem = next((s.problem for s in series if s.problem), None)
    if problem:
        raise FormatError(problem)
    row, column, normal = _axes(series[0])
    ordered = sorted(series, key=lambda s: s.along(normal))
    _check_pixels(ordered)
    step = _step(ordered, normal) if len(ordered) > 1 else _thickness(ordered[0], spacing)
    _check_tilt(ordered, normal)
    first = ordered[0]
    geometry = Geometry.from_itk(
        (first.shape[1], first.shape[0], len(ordered)),
        (first.spacing[1], first.spacing[0], step),
        first.position,
        np.stack([row, column, normal], axis=1).ravel().tolist(),
    )
    return ordered, geometry


def describe(piece: Slice) -> str:
    """A slice as messages name it."""
    z = f"{piece.along(_axes(piece)[2]):.2f} mm" if piece.orientation else "an unknown position"
    return f"the slice at {z} (InstanceNumber {piece.number})"


def _slice(path: Path, header: Any) -> Slice:
    def floats(name: str) -> tuple[float, ...]:
        return tuple(float(v) for v in (header.get(name) or ()))

    kind = "i" if header.get("PixelRepresentation", 0) else "u"
    thickness = header.get("SpacingBetweenSlices") or header.get("SliceThickness")
    number = header.get("InstanceNumber")
    return Slice(
        path=path,
        uid=str(header.get("SeriesInstanceUID", "")),
        series_number=int(header.get("SeriesNumber") or 0),
        number=None if number is None else int(number),
        shape=(int(header.Rows), int(header.Columns)),
        position=floats("ImagePositionPatient"),
        orientation=floats("ImageOrientationPatient"),
        spacing=floats("PixelSpacing"),
        thickness=abs(float(thickness)) if thickness else None,
        slope=_number(header.get("RescaleSlope"), 1.0),
        intercept=_number(header.get("RescaleIntercept"), 0.0),
        dtype=f"{kind}{int(header.BitsAllocated) // 8}",
        modality=header.get("Modality"),
        is_localizer="LOCALIZER" in (header.get("ImageType") or ()),
        problem=_problem(header),
    )


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _problem(header: Any) -> str | None:
    """Why an image cannot be part of a series of slices, or None."""
    photometric = str(header.get("PhotometricInterpretation", ""))
    if int(header.get("NumberOfFrames") or 1) > 1:
        return "the DICOM file is multi-frame; series of one file per slice are read. Convert it to a series."
    if not photometric.startswith("MONOCHROME") or header.get("SamplesPerPixel", 1) != 1:
        return f"the DICOM images are {photometric}; MONOCHROME is read. Take the series before colouring."
    if int(header.BitsAllocated) not in (8, 16, 32):
        return (
            f"the DICOM images have {header.BitsAllocated} bits a pixel; 8, 16 and 32 are read. Convert them."
        )
    if "ModalityLUTSequence" in header:
        return "the DICOM images have a modality look-up table; slope and intercept are read. Convert them."
    if (
        len(header.get("ImagePositionPatient") or ()) != 3
        or len(header.get("ImageOrientationPatient") or ()) != 6
    ):
        return "the DICOM images state no position or orientation. Restore the series from its source."
    return None


def _group(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Slices of one SeriesInstanceUID, shape and orientation."""
    groups: list[list[Slice]] = []
    for piece in slices:
        for group in groups:
            first = group[0]
            if (first.uid, first.shape, len(first.orientation)) == (
                piece.uid,
                piece.shape,
                len(piece.orientation),
            ) and np.allclose(first.orientation, piece.orientation, rtol=0, atol=1e-3):
                group.append(piece)
                break
        else:
            groups.append([piece])
    return groups


def _describe(group: Sequence[Slice]) -> str:
    rows, columns = group[0].shape
    return f"{group[0].uid} ({len(group)} slices of {rows}x{columns})"


def _axes(piece: Slice) -> tuple[npt.NDArray[np.float64], ...]:
    """Unit vectors along a row, along a column, and from slice to slice."""
    row, column = np.reshape(piece.orientation, (2, 3))
    lengths = np.linalg.norm(row) * np.linalg.norm(column)
    if not lengths > 0 or abs(np.dot(row, column)) > 1e-3 * lengths:
        raise GeometryError(
            f"ImageOrientationPatient is {piece.orientation}; two vectors at right angles are needed. "
            "Restore the series from its source."
        )
    normal = np.cross(row, column)
    return tuple(np.asarray(v / np.linalg.norm(v), float) for v in (row, column, normal))


def _check_pixels(series: Sequence[Slice]) -> None:
    first = series[0].spacing
    if len(first) != 2:
        raise SpacingError("the DICOM images state no PixelSpacing. Restore the series from its source.")
    for piece in series:
        if len(piece.spacing) != 2 or not np.allclose(piece.spacing, first, rtol=1e-4, atol=0):
            raise GeometryError(
                f"PixelSpacing is {first} mm in {describe(series[0])}, but {piece.spacing} mm in "
                f"{describe(piece)}. Give each series its own folder."
            )


def _step(series: Sequence[Slice], normal: npt.NDArray[np.float64]) -> float:
    """Millimetres from slice to slice, where every step is the same."""
    places = [s.along(normal) for s in series]
    steps = np.diff(places)
    expected = float(np.sort(steps)[(len(steps) - 1) // 2])
    for found, before, after in zip(steps, series, series[1:], strict=False):
        between = f"between {describe(before)} and {describe(after)}"
        if found < ROUNDING_MM:
            raise SpacingError(
                f"two slices lie at one position, {between}. Remove one, or give each time point or copy "
                "of the series its own folder."
            )
        if abs(found - expected) > max(STEP_TOLERANCE * expected, ROUNDING_MM):
            missing = round(found / expected) - 1 if expected >= ROUNDING_MM else 0
            hint = f" ({missing} missing?)" if missing > 0 else ""
            raise SpacingError(
                f"slices are {expected:.4g} mm apart, but {found:.4g} mm {between}{hint}. "
                "Restore the series from its source."
            )
    return (places[-1] - places[0]) / (len(places) - 1)


def _thickness(piece: Slice, spacing: Triple | None) -> float:
    if spacing is not None:
        return spacing[0]
    if piece.thickness is None:
        raise SpacingError(
            "the series has one slice and states neither SpacingBetweenSlices nor SliceThickness. "
            "Add a `spacing` column to a manifest."
        )
    return piece.thickness


def _check_tilt(series: Sequence[Slice], normal: npt.NDArray[np.float64]) -> None:
    """Refuse slices that drift sideways: the grid would be sheared."""
    shifts = np.subtract([s.position for s in series], series[0].position)
    along = shifts @ normal
    sideways = np.linalg.norm(shifts - along[:, None] * normal, axis=1)
    worst = int(np.argmax(sideways))
    if sideways[worst] > max(TILT_PIXELS * min(series[0].spacing), TILT_SLOPE * along[worst]):
        angle = np.degrees(np.arctan2(sideways[worst], along[worst]))
        raise GeometryError(
            f"gantry tilt of {angle:.1f} degrees: {describe(series[worst])} lies {sideways[worst]:.2f} mm "
            "beside the normal of the first; straight slices are read. Undo the tilt before."
        )
