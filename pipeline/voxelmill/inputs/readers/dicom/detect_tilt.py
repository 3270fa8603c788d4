"""Detection of gantry tilt, and of slices that are displaced or rotated against the rest of their series.

In: slices in order, and the normal of their planes. Out: a `Drift`, and distances in pixels. Deviations
beyond `SAME_GRID` are refused by slice, or a setting undoes the tilt. No pixels are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import GeometryError
from voxelmill.basics.geometry import SAME_GRID
from voxelmill.inputs.readers.dicom.slice_headers import Slice, axes, describe

Vector = npt.NDArray[np.float64]

_NORMAL = 2.5  # largest rotation of the normal, in units of the rounding of the two vectors that span it


@dataclass(frozen=True)
class Drift:
    """The sideways drift of slices.

    Attributes
    ----------
    slope : array
        Millimetres x, y, z per millimetre along the normal; 0 if there is no tilt.
    beside : array
        Sideways distance of each slice from the common line, in pixels.
    notes : tuple of str
        Notes for the user on the drift.
    """

    slope: Vector
    beside: Vector
    notes: tuple[str, ...] = ()


def find_drift(series: Sequence[Slice], normal: Vector, choice: str) -> Drift:
    """Fit a straight line to the sideways positions of slices by least squares.

    Parameters
    ----------
    series : sequence of Slice
        In order of position along the normal.
    normal : array
        Unit vector x, y, z.
    choice : {"refuse", "undo"}
        The setting repair.shear.

    Raises
    ------
    GeometryError
        If a slice lies off the line, or the line is tilted and `choice` is "refuse".
    """
    shifts = np.subtract([s.position for s in series], series[0].position)
    along = shifts @ normal
    sideways = shifts - along[:, None] * normal
    slope, pixel = _slope(along, sideways), min(series[0].spacing)
    beside = _check_line(series, along, sideways, slope)
    distances = np.linalg.norm(sideways, axis=1)
    worst = int(np.argmax(distances))
    if distances[worst] <= SAME_GRID * pixel:  # straight, as far as a grid can tell
        return Drift(np.zeros(3), distances / pixel)
    # a rounded orientation turns the normal: over a long series this looks like a tilt
    if np.linalg.norm(slope) <= _NORMAL * _rounding(series[0].orientation):
        what = f"slices drift {distances[worst]:.2g} mm sideways, as ImageOrientationPatient is rounded"
        return Drift(np.zeros(3), beside, (what,))
    tilt = f"gantry tilt of {np.degrees(np.arctan(np.linalg.norm(slope))):.1f} degrees"
    if choice == "refuse":
        raise GeometryError(
            f"{tilt}: {describe(series[worst])} lies {distances[worst]:.2f} mm beside the normal of the "
            "first; straight slices are read. Undo the tilt before, or here: --set repair.shear=undo."
        )
    return Drift(slope, beside, (tilt,))


def _rounding(orientation: Sequence[float]) -> float:
    """Return half a unit of the last decimal, if numbers are written with three to six decimals.

    Numbers with fewer decimals count as exact (0): most belong to axis-aligned planes.
    """
    values = np.asarray(orientation)
    decimals = next((d for d in range(7) if np.allclose(values, values.round(d), rtol=0, atol=1e-10)), 0)
    return 0.5 * 10.0**-decimals if decimals >= 3 else 0.0


def _slope(along: Vector, sideways: Vector) -> Vector:
    if len(along) == 1:
        return np.zeros(3)
    centred = along - along.mean()
    slope: Vector = centred @ sideways / (centred @ centred)
    return slope


def _check_line(series: Sequence[Slice], along: Vector, sideways: Vector, slope: Vector) -> Vector:
    """Return the distance of each slice from the line in pixels; refuse more than `SAME_GRID`."""
    line = sideways.mean(axis=0) + (along - along.mean())[:, None] * slope
    beside = np.linalg.norm(sideways - line, axis=1)
    worst, accepted = int(np.argmax(beside)), SAME_GRID * min(series[0].spacing)
    if beside[worst] > accepted:
        raise GeometryError(
            f"slices do not lie in a straight row: {describe(series[worst])} is {beside[worst]:.2f} mm "
            f"beside the line through all, at most {accepted:.2g} mm is accepted. Restore the series from "
            "its source."
        )
    pixels: Vector = beside / min(series[0].spacing)
    return pixels


def check_planes(series: Sequence[Slice]) -> Vector:
    """Compare the planes of all slices with the first one, apart from their positions.

    Returns
    -------
    array
        Largest displacement of a corner of each slice, in pixels.

    Raises
    ------
    GeometryError
        If a corner is displaced by more than `SAME_GRID`.
    """
    found = np.array([_corners(piece) for piece in series])
    off: Vector = np.linalg.norm(found - found[0], axis=-1).max(axis=-1) / min(series[0].spacing)
    worst = int(np.argmax(off))
    if off[worst] > SAME_GRID:
        raise GeometryError(
            f"ImageOrientationPatient of {describe(series[worst])} turns a corner by {off[worst]:.2g} pixels "
            f"from where that of {describe(series[0])} puts it, at most {SAME_GRID} is accepted. Restore the "
            "series from its source."
        )
    return off


def _corners(piece: Slice) -> Vector:
    """Return three corners of a slice relative to the fourth, x, y, z in millimetres: (3, 3)."""
    row, column, _ = axes(piece)
    right = row * piece.spacing[1] * (piece.shape[1] - 1)
    below = column * piece.spacing[0] * (piece.shape[0] - 1)
    return np.array([right, below, right + below])
