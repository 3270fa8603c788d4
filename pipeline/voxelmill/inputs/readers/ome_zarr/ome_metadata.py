"""The OME-Zarr metadata of an image: axes, units and transformations of level 0.

In: the JSON of a group, and the shape of its array. Out: axis letters and a geometry. No file is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from voxelmill.basics.errors import FormatError, SpacingError
from voxelmill.basics.geometry import Geometry, Matrix, Triple
from voxelmill.inputs.readers.shared.axes_and_units import complete_spacing, millimetres

_SPATIAL = {"z", "y", "x"}
_TYPES = {"time": "t", "channel": "c"}
_TOWARDS = {  # anatomical orientation to world axis (z, y, x) and sign, in LPS
    "inferior-to-superior": (0, 1.0),
    "superior-to-inferior": (0, -1.0),
    "anterior-to-posterior": (1, 1.0),
    "posterior-to-anterior": (1, -1.0),
    "right-to-left": (2, 1.0),
    "left-to-right": (2, -1.0),
}


class _Axis(BaseModel, extra="allow"):
    name: str
    type: Any = None
    unit: Any = None


class _Step(BaseModel):
    type: str
    scale: tuple[float, ...] = ()
    translation: tuple[float, ...] = ()


class _Steps(BaseModel):
    transformations: tuple[_Step, ...] = Field((), alias="coordinateTransformations")


class _Level(_Steps):
    path: str


class _Image(_Steps):
    axes: tuple[_Axis, ...]
    datasets: tuple[_Level, ...] = Field(min_length=1)


class _Metadata(BaseModel):
    multiscales: tuple[_Image, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Multiscale:
    """Level 0 of a multiscale image.

    Attributes
    ----------
    path : str
        The array, relative to the group.
    axes : tuple of dict
        As stated, in the order of the array.
    letters : str
        One letter per axis: t, c, z, y, x, or "?".
    scale, translation : tuple of float
        From voxel indices to the units of the axes; `scale` is empty if none is stated. A negative scale
        reverses the axis.
    """

    path: str
    axes: tuple[dict[str, Any], ...]
    letters: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]

    @classmethod
    def parse(cls, metadata: Mapping[str, Any]) -> Multiscale:
        """Parse the OME metadata of a group.

        Raises
        ------
        FormatError
            If they do not follow version 0.4 or 0.5.
        """
        try:
            image = _Metadata.model_validate(dict(metadata)).multiscales[0]
            level, axes = image.datasets[0], tuple(axis.model_dump() for axis in image.axes)
            # the level's own transformations apply first, as the specification says
            steps = [*level.transformations, *image.transformations]
            return cls(level.path, axes, _letters(axes), *_compose(steps, len(axes)))
        except ValueError:  # pydantic's ValidationError is one
            raise FormatError(
                "the OME metadata are not of version 0.4 or 0.5: axes with names, datasets with a path, and "
                "transformations of scale and translation are read. Convert the image."
            ) from None

    def check(self, shape: Sequence[int]) -> None:
        """Refuse an array with other axes, or with several time points.

        Raises
        ------
        FormatError
            Names the axes and their lengths.
        """
        names = ", ".join(str(axis["name"]) for axis in self.axes)
        found = f"the OME-Zarr image has axes {names} of {'x'.join(map(str, shape))} voxels"
        if len(self.letters) != len(shape) or not {"y", "x"} <= set(self.letters):
            raise FormatError(f"{found}; y and x, and perhaps z, c and t, are needed. Mend its metadata.")
        if any(n > 1 for letter, n in zip(self.letters, shape, strict=True) if letter not in "czyx"):
            raise FormatError(f"{found}; one time point of c, z, y, x is read. Save it by itself.")

    def geometry(self, shape: Sequence[int], spacing: Triple | None) -> Geometry:
        """Return the grid of an array.

        Parameters
        ----------
        shape : sequence of int
            Of the array, in the order of `axes`.
        spacing : (z, y, x) or None
            In millimetres. Overrides the stated scale, and implies the unit of an axis that states none.

        Raises
        ------
        SpacingError
            If no spacing is given, and a scale is 0 or missing.
        FormatError
            If a scale or a translation is not finite.
        """
        sizes = dict(zip(self.letters, shape, strict=True))
        scale, moved = self._of_space("scale", self.scale), self._of_space("translation", self.translation)
        units = {a: millimetres(axis.get("unit")) for a, axis in zip(self.letters, self.axes, strict=True)}
        slices = int(sizes.get("z", 1))
        if spacing is None:
            _refuse_zero({a: s for a, s in scale.items() if a != "z" or slices > 1})
        stated = {a: abs(s) * u for a, s in scale.items() if (u := units[a])}
        z, y, x = spacing or complete_spacing(stated, slices, "the OME-Zarr image")
        # millimetres per unit as the given spacing implies it, for the translation
        given = {a: step / abs(scale[a]) for a, step in zip("zyx", (z, y, x), strict=True) if scale.get(a)}
        towards = self._towards()
        origin = towards @ [moved.get(a, 0.0) * (units.get(a) or given.get(a, 0.0)) for a in "zyx"]
        direction = towards * [-1.0 if scale.get(a, 1.0) < 0 else 1.0 for a in "zyx"] + 0.0  # no -0.0
        return Geometry(
            (slices, int(sizes["y"]), int(sizes["x"])), (z, y, x), tuple(origin.tolist()), _rows(direction)
        )

    def _of_space(self, what: str, values: Sequence[float]) -> dict[str, float]:
        """Return the values of the axes z, y and x that exist; empty if nothing is stated."""
        found = {a: v for a, v in zip(self.letters, values, strict=False) if a in _SPATIAL}
        wrong = [a for a, v in found.items() if not np.isfinite(v)]
        if wrong:
            raise FormatError(
                f"the OME-Zarr image states a {what} of {found[wrong[0]]:g} along {wrong[0]}; a finite "
                "number is needed. Mend its metadata."
            )
        return found

    def _towards(self) -> npt.NDArray[np.float64]:
        """Return the world direction of each axis with positive scale, as columns: (3, 3), in z, y, x.

        The stated anatomical orientations count if all of them are known; otherwise the matrix is identity.
        """
        stated = {
            "zyx".index(letter): _orientation(axis)
            for letter, axis in zip(self.letters, self.axes, strict=True)
            if letter in "zyx" and axis.get("orientation")
        }
        matrix = np.eye(3)
        if all(value in _TOWARDS for value in stated.values()):
            for column, value in stated.items():
                world, sign = _TOWARDS[value]
                matrix[:, column] = 0
                matrix[world, column] = sign
        return matrix


def _refuse_zero(scale: Mapping[str, float]) -> None:
    zero = [axis for axis, step in scale.items() if step == 0]
    if zero:
        raise SpacingError(
            f"the OME-Zarr image states a scale of 0 along {', '.join(zero)}; the distance between voxels is "
            "needed. Mend its metadata, or add a `spacing` column to a manifest."
        )


def _rows(matrix: npt.NDArray[np.float64]) -> Matrix:
    return cast("Matrix", tuple(map(tuple, matrix.tolist())))


def _orientation(axis: Mapping[str, Any]) -> str:
    """Return the name of an orientation; ngff-zarr writes a string, the first proposal was an object."""
    stated = axis["orientation"]
    return str(stated.get("value") if isinstance(stated, Mapping) else stated)


def _letters(axes: Sequence[Mapping[str, Any]]) -> str:
    """Return a letter per axis, by type and name; spatial axes with other names are z, y, x in this order."""
    spatial = [axis for axis in axes if _letter(axis) in _SPATIAL]
    if {_name(axis) for axis in spatial} <= _SPATIAL:
        letters = "".join(_letter(axis) for axis in axes)
    else:
        places = iter("zyx"[-len(spatial) :] + "?" * len(spatial))
        letters = "".join(next(places) if _letter(axis) in _SPATIAL else _letter(axis) for axis in axes)
    known = letters.replace("?", "")
    if len(set(known)) < len(known):
        raise ValueError("an axis is there twice")
    return letters


def _letter(axis: Mapping[str, Any]) -> str:
    """Return the letter of a single axis; a spatial axis with another name counts as z."""
    name, kind = _name(axis), axis.get("type")
    if kind == "space":
        return name if name in _SPATIAL else "z"
    return _TYPES.get(str(kind), name if kind is None and name in _SPATIAL | {"t", "c"} else "?")


def _name(axis: Mapping[str, Any]) -> str:
    return str(axis["name"]).lower()


def _compose(steps: Sequence[_Step], ndim: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Combine transformations, in order, into a scale and a translation; no scale if none is stated."""
    scale, translation = np.ones(ndim), np.zeros(ndim)
    for step in steps:
        if step.type == "identity":
            continue
        values = {"scale": step.scale, "translation": step.translation}.get(step.type, ())
        if len(values) != ndim:
            raise ValueError("an unknown transformation, or numbers that cannot be one")
        if step.type == "scale":
            scale, translation = scale * values, translation * values
        else:
            translation = translation + values
    stated = any(step.type == "scale" for step in steps)
    return tuple(scale.tolist()) if stated else (), tuple(translation.tolist())
