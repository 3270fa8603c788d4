"""The grid of a NIfTI file from sform, qform and pixdim, with rules for headers that contradict themselves.

In: nibabel's header, and the caller's options. Out: a `Placed`. A spacing given by the caller overrides the
header. No file is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import GeometryError, SpacingError
from voxelmill.basics.geometry import SAME_GRID, Geometry, Triple
from voxelmill.basics.volume import Repair
from voxelmill.inputs.readers.shared.hints import Hints

Size = tuple[int, int, int]
Vector = npt.NDArray[np.float64]

MENDING = "Restore the file, or convert it again from its source."
SAME_SPACING = 1e-3
"""Relative difference between pixdim and the column lengths of an affine that counts as rounding."""

_MILLIMETRES = {1: 1000.0, 3: 0.001}  # xyzt_units: codes for metres and micrometres; 2 is millimetres


@dataclass(frozen=True)
class Placed:
    """The grid of a NIfTI file, with repairs and notes; the fields are those of `Volume`."""

    geometry: Geometry
    repairs: tuple[Repair, ...] = ()
    notes: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Contradiction:
    """A contradiction between the chosen form and the rest of the header.

    If it concerns the position alone, sform holds, as in nibabel and most tools. If it concerns the shape of
    the grid (spacing, handedness, angles), the user has to decide.
    """

    text: str
    is_of_place: bool = False


def make_geometry(header: Any, size: Size, hints: Hints, what: str = "NIfTI") -> Placed:
    """Return the grid in millimetres, with repairs and notes.

    sform counts, or qform if there is no sform. Without either, the direction is identity, as in ITK.

    Parameters
    ----------
    header : nibabel header
        Its pixdim is overwritten with the spacing that is used.
    size : (x, y, z)
        In voxels.
    hints : Hints
        Spacing and accepted repairs.
    what : str
        Name of the format in messages.

    Raises
    ------
    SpacingError
        If a spacing is not a positive number.
    GeometryError
        If pixdim and sform state different spacings, sform and qform describe grids of different shapes, or
        the form that counts is invalid.
    """
    scale = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    steps, repairs = _steps(header, scale, hints, what)
    header["pixdim"][1:4] = steps / scale  # get_qform reads it
    names = [name for name in ("sform", "qform") if header[f"{name}_code"] > 0]
    if not names:
        # ITK's identity direction is LPS: x and y are negative in RAS
        return Placed(Geometry.from_ras_affine(size, np.diag([-steps[0], -steps[1], steps[2], 1.0])), repairs)
    chosen = hints.repair.affine if hints.repair.affine in names else names[0]
    geometry = _form(header, chosen, size, scale, hints.spacing)
    found = _disagreement(header, geometry, names, chosen, scale, hints.spacing)
    if (found is None or found.is_of_place) and chosen == "sform" and hints.spacing is None:
        found = _other_spacing(header, geometry, steps) or found
    # the columns of an affine repeat pixdim with more rounding
    if (found is None or found.is_of_place) and np.allclose(geometry.spacing, steps[::-1], rtol=SAME_SPACING):
        geometry = replace(geometry, spacing=_reversed(steps))
    if found is None:
        return Placed(geometry, repairs)
    if found.is_of_place and chosen == "sform":
        return Placed(geometry, repairs, (f"{found.text}; sform holds",), ("repair.affine=qform",))
    return Placed(geometry, (*repairs, _accept(found.text, chosen, names, hints.repair.affine)))


def _steps(header: Any, scale: float, hints: Hints, what: str) -> tuple[Vector, tuple[Repair, ...]]:
    """Return the spacing x, y, z in millimetres, and a repair if signs were dropped."""
    if hints.spacing is not None:
        return np.array(hints.spacing[::-1]), ()
    stated: Vector = header["pixdim"][1:4].astype(float) * scale
    if header["dim"][0] == 2:
        stated[2] = abs(stated[2]) or 1.0  # a two-dimensional image has no third axis
    steps = np.abs(stated)
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise SpacingError(
            f"the {what} header has spacing {_reversed(stated)} mm (z, y, x); every axis needs a positive "
            "number. Mend the header, or add a `spacing` column to a manifest."
        )
    if (stated > 0).all():
        return steps, ()
    if hints.repair.pixdim == "refuse":
        raise SpacingError(
            f"the {what} header has negative spacing, pixdim {_reversed(stated)} mm (z, y, x); every axis "
            "needs a positive number. Mend the header, or leave the signs out: --set repair.pixdim=absolute."
        )
    taken = f"pixdim {_reversed(stated)} mm (z, y, x) taken without its signs"
    return steps, (Repair("repair.pixdim=absolute", taken),)


def _form(header: Any, name: str, size: Size, scale: float, spacing: Triple | None) -> Geometry:
    """Return the grid that sform or qform states."""
    from nibabel.spatialimages import HeaderDataError

    try:
        affine = header.get_sform() if name == "sform" else header.get_qform()
    except (ValueError, HeaderDataError):
        raise GeometryError(f"the NIfTI header has a quaternion that is no rotation. {MENDING}") from None
    affine = np.diag([scale, scale, scale, 1.0]) @ np.asarray(affine, float)
    if not np.isfinite(affine).all():
        raise GeometryError(f"the {name} of the NIfTI header holds what is no finite number. {MENDING}")
    geometry = Geometry.from_ras_affine(size, affine)
    return geometry if spacing is None else replace(geometry, spacing=spacing)


def _disagreement(
    header: Any, geometry: Geometry, names: Sequence[str], chosen: str, scale: float, spacing: Triple | None
) -> _Contradiction | None:
    """Return how the form that was not chosen contradicts the chosen one, or None."""
    other = next((name for name in names if name != chosen), None)
    if other is None:
        return None
    try:
        found = _form(header, other, _x_y_z(geometry), scale, spacing)
    except GeometryError:
        return _Contradiction(
            f"the NIfTI header has a {other} that makes no sense, and a {chosen}", is_of_place=True
        )
    apart = geometry.displacement(found)
    if apart <= SAME_GRID:
        return None
    if (shape := _other_shape({chosen: geometry, other: found})) is not None:
        return _Contradiction(shape)
    return _Contradiction(
        f"sform and qform of the NIfTI header place a corner {apart:.3g} voxels apart: {chosen} has origin "
        f"{_words(geometry.origin)} mm (z, y, x), {other} {_words(found.origin)}",
        is_of_place=True,
    )


def _other_shape(forms: Mapping[str, Geometry]) -> str | None:
    """Return how two forms differ in shape (angles, spacing, handedness), or None."""
    sform, qform = forms["sform"], forms["qform"]
    begin = "sform and qform of the NIfTI header make grids of different shapes"
    if sform.shear_voxels > SAME_GRID:
        return f"{begin}: the axes of sform are {sform.shear_degrees:.3g} degrees off right angles"
    if not np.allclose(sform.spacing, qform.spacing, rtol=SAME_SPACING):
        return (
            f"{begin}: sform has spacing {_words(sform.spacing)} mm (z, y, x), qform {_words(qform.spacing)}"
        )
    if sform.is_right_handed != qform.is_right_handed:
        return f"{begin}: sform is {_hand(sform)}-handed, qform {_hand(qform)}-handed"
    return None


def _hand(geometry: Geometry) -> str:
    return "right" if geometry.is_right_handed else "left"


def _other_spacing(header: Any, geometry: Geometry, steps: Vector) -> _Contradiction | None:
    """Return how pixdim, also the spacing of qform, contradicts the column lengths of sform, or None."""
    axes = min(int(header["dim"][0]), 3)
    found, expected = np.array(geometry.spacing[::-1])[:axes], steps[:axes]
    if (np.abs(found - expected) <= SAME_SPACING * expected).all():
        return None
    return _Contradiction(
        f"the NIfTI header has spacing {_words(steps[::-1])} mm (z, y, x) in pixdim, but "
        f"{_words(geometry.spacing)} mm in sform"
    )


def _accept(problem: str, chosen: str, names: Sequence[str], choice: str) -> Repair:
    """Record a contradiction if the setting names the chosen form; refuse it otherwise."""
    if choice == chosen:
        return Repair(f"repair.affine={chosen}", f"{problem}; {chosen} holds")
    settings = " or ".join(f"repair.affine={name}" for name in names)
    raise GeometryError(f"{problem}. Mend the header, or say which holds: --set {settings}.")


def _words(numbers: Sequence[float] | Vector) -> str:
    return f"({', '.join(f'{n:.6g}' for n in numbers)})"


def _x_y_z(geometry: Geometry) -> Size:
    z, y, x = geometry.shape
    return x, y, z


def _reversed(steps: Vector) -> Triple:
    x, y, z = steps.tolist()
    return z, y, x
