"""A NIfTI header -> where its voxels lie: sform, qform and pixdim, and what is done where they contradict.

In: nibabel's header, and what the caller knows and accepts. Out: a `Geometry` and the repairs it took. A
spacing that the caller gives goes before all that the header says. Reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.errors import GeometryError, SpacingError
from voxelmill.geometry import SAME_GRID, Geometry, Triple
from voxelmill.readers.common import Hints
from voxelmill.volume import Repair

Size = tuple[int, int, int]
Vector = npt.NDArray[np.float64]

MENDING = "Restore the file, or convert it again from its source."
SAME_SPACING = 1e-3  # of pixdim, by which an affine may differ from it: it repeats it with more rounding
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # codes for metres and micrometres


def make_geometry(header: Any, size: Size, hints: Hints) -> tuple[Geometry, tuple[Repair, ...]]:
    """Grid in millimetres, and what was repaired.

    sform counts, or qform where it is alone; where neither is there, axes are the world's, as in ITK.

    Raises
    ------
    SpacingError
        If the spacing is no positive number, or pixdim and sform state different ones.
    GeometryError
        If sform and qform place the image differently, or the one that counts makes no sense.
    """
    scale = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    steps, repairs = _steps(header, scale, hints)
    header["pixdim"][1:4] = steps / scale
    names = [name for name in ("sform", "qform") if header[f"{name}_code"] > 0]
    if not names:
        return Geometry.from_ras_affine(size, np.diag([-steps[0], -steps[1], steps[2], 1.0])), repairs
    chosen = hints.repair.affine if hints.repair.affine in names else names[0]
    geometry = _form(header, chosen, size, scale, hints.spacing)
    problem = _disagreement(header, geometry, names, chosen, scale, hints.spacing)
    if problem is None and chosen == "sform" and hints.spacing is None:
        problem = _other_spacing(header, geometry, steps)
    if problem is not None:
        repairs = (*repairs, _accept(problem, chosen, names, hints.repair.affine))
    elif np.allclose(geometry.spacing, steps[::-1], rtol=SAME_SPACING):
        geometry = replace(geometry, spacing=_reversed(steps))
    return geometry, repairs


def _steps(header: Any, scale: float, hints: Hints) -> tuple[Vector, tuple[Repair, ...]]:
    """Millimetres between voxels in x, y, z."""
    if hints.spacing is not None:
        return np.array(hints.spacing[::-1]), ()
    stated: Vector = header["pixdim"][1:4].astype(float) * scale
    if header["dim"][0] == 2:
        stated[2] = abs(stated[2]) or 1.0  # an axis that is not there
    steps = np.abs(stated)
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise SpacingError(
            f"the NIfTI header has spacing {_reversed(stated)} mm (z, y, x); every axis needs a positive "
            "number. Mend the header, or add a `spacing` column to a manifest."
        )
    if (stated > 0).all():
        return steps, ()
    if hints.repair.pixdim == "refuse":
        raise SpacingError(
            f"the NIfTI header has negative spacing, pixdim {_reversed(stated)} mm (z, y, x); every axis "
            "needs a positive number. Mend the header, or leave the signs out: --set repair.pixdim=absolute."
        )
    what = f"pixdim {_reversed(stated)} mm (z, y, x) taken without its signs"
    return steps, (Repair("repair.pixdim=absolute", what),)


def _form(header: Any, name: str, size: Size, scale: float, spacing: Triple | None) -> Geometry:
    """The grid as sform or qform states it."""
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
) -> str | None:
    """What the form that was not chosen says otherwise, where it is there."""
    for name in names:
        if name == chosen:
            continue
        try:
            other = _form(header, name, _x_y_z(geometry), scale, spacing)
        except GeometryError:
            return f"the NIfTI header has a {name} that makes no sense, and a {chosen}"
        if (apart := geometry.displacement(other)) > SAME_GRID:
            return (
                f"sform and qform of the NIfTI header place a corner {apart:.3g} voxels apart, at most "
                f"{SAME_GRID} is accepted: {chosen} has {_state(geometry)}, {name} {_state(other)}"
            )
    return None


def _other_spacing(header: Any, geometry: Geometry, steps: Vector) -> str | None:
    """Where pixdim and the lengths of sform's columns differ."""
    axes = min(int(header["dim"][0]), 3)
    found, expected = np.array(geometry.spacing[::-1])[:axes], steps[:axes]
    if (np.abs(found - expected) <= SAME_SPACING * expected).all():
        return None
    return (
        f"the NIfTI header has spacing {_words(steps[::-1])} mm (z, y, x) in pixdim, but "
        f"{_words(geometry.spacing)} mm in sform"
    )


def _accept(problem: str, chosen: str, names: Sequence[str], choice: str) -> Repair:
    """Record a contradiction where the form was chosen by name; refuse it where not."""
    if choice == chosen:
        return Repair(f"repair.affine={chosen}", f"{problem}; {chosen} holds")
    settings = " or ".join(f"repair.affine={name}" for name in names)
    raise GeometryError(f"{problem}. Mend the header, or say which holds: --set {settings}.")


def _state(geometry: Geometry) -> str:
    return f"spacing {_words(geometry.spacing)} and origin {_words(geometry.origin)} mm (z, y, x)"


def _words(numbers: Sequence[float] | Vector) -> str:
    return f"({', '.join(f'{n:.6g}' for n in numbers)})"


def _x_y_z(geometry: Geometry) -> Size:
    z, y, x = geometry.shape
    return x, y, z


def _reversed(steps: Vector) -> Triple:
    x, y, z = steps.tolist()
    return z, y, x
