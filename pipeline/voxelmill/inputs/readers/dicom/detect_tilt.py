"""How the slices of a DICOM series lie above each other: straight, tilted, beside the others, or turned.

In: slices in order, and the normal of their planes. Out: a `Drift`, and distances in voxels. What lies beyond
`SAME_GRID` is refused by name, or a setting undoes it. Decodes nothing.
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

_NORMAL = 2.5  # times the rounding of the numbers of two unit vectors, at most, that turns their normal


@dataclass(frozen=True)
class Drift:
    """How slices drift sideways.

    Attributes
    ----------
    slope : array
        Millimetres x, y, z per millimetre along the normal; 0 where slices lie straight.
    beside : array
        Of each slice, in pixels, how far it lies beside the row of all.
    """

    slope: Vector
    beside: Vector
    notes: tuple[str, ...] = ()


def find_drift(series: Sequence[Slice], normal: Vector, choice: str) -> Drift:
    """The sideways drift of slices, a straight line (least squares).

    Raises
    ------
    GeometryError
        If a slice lies beside that line, or the line is tilted and that shall be refused.
    """
    shifts = np.subtract([s.position for s in series], series[0].position)
    along = shifts @ normal
    sideways = shifts - along[:, None] * normal
    slope, pixel = _slope(along, sideways), min(series[0].spacing)
    beside = _check_line(series, along, sideways, slope)
    distances = np.linalg.norm(sideways, axis=1)
    worst = int(np.argmax(distances))
    if distances[worst] <= SAME_GRID * pixel:
        return Drift(np.zeros(3), distances / pixel)
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
    """Half a unit of the last decimal, where numbers are written with three to six.

    Those with fewer count as exact: most are of axes along the world's.
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
    """Pixels by which each slice lies beside the line through all."""
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
    """Pixels by which the farthest corner of each slice lies from where it would by the first one's header.

    Raises
    ------
    GeometryError
        If orientations differ by too much.
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
    """Where three corners of a slice lie, seen from the fourth, in millimetres: (3, 3)."""
    row, column, _ = axes(piece)
    right = row * piece.spacing[1] * (piece.shape[1] - 1)
    below = column * piece.spacing[0] * (piece.shape[0] - 1)
    return np.array([right, below, right + below])
