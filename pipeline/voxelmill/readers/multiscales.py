"""OME-Zarr's metadata of an image: axes, units and transformations of level 0.

In: the JSON of a group, and the shape of its array. Out: letters of axes, and a geometry. Opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from voxelmill.errors import FormatError
from voxelmill.geometry import Geometry, Matrix, Triple
from voxelmill.readers.microscopy import complete_spacing, millimetres

_SPATIAL = {"z", "y", "x"}
_TYPES = {"time": "t", "channel": "c"}
_TOWARDS = {  # world axis (z, y, x) and sign, in LPS
    "inferior-to-superior": (0, 1.0),
    "superior-to-inferior": (0, -1.0),
    "anterior-to-posterior": (1, 1.0),
    "posterior-to-anterior": (1, -1.0),
    "right-to-left": (2, 1.0),
    "left-to-right": (2, -1.0),
}


@dataclass(frozen=True)
class Multiscale:
    """Level 0 of a multiscale image.

    Attributes
    ----------
    path : str
        Of the array, within the group.
    axes : tuple of dict
        As they are stated, in the order of the array.
    letters : str
        One an axis: t, c, z, y, x, or "?".
    scale, translation : tuple of float
        Of voxels into the units of the axes; `scale` is empty where none is stated.
    """

    path: str
    axes: tuple[dict[str, Any], ...]
    letters: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]

    @classmethod
    def parse(cls, metadata: Mapping[str, Any]) -> Multiscale:
        """From the OME metadata of a group.

        Raises
        ------
        FormatError
            If they are not those of version 0.4 or 0.5.
        """
        try:
            image = metadata["multiscales"][0]
            level, axes = image["datasets"][0], tuple(image["axes"])
            steps = [
                *level.get("coordinateTransformations", []),
                *image.get("coordinateTransformations", []),
            ]
            return cls(str(level["path"]), axes, _letters(axes), *_compose(steps, len(axes)))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise FormatError(
                "the OME metadata are not of version 0.4 or 0.5: axes with names, datasets with a path, and "
                "transformations of scale and translation are read. Convert the image."
            ) from None

    def check(self, shape: Sequence[int]) -> None:
        """Refuse an array of other axes, or of several time points.

        Raises
        ------
        FormatError
            Naming the axes and their lengths.
        """
        names = ", ".join(str(axis["name"]) for axis in self.axes)
        found = f"the OME-Zarr image has axes {names} of {'x'.join(map(str, shape))} voxels"
        if len(self.letters) != len(shape) or not {"y", "x"} <= set(self.letters):
            raise FormatError(f"{found}; y and x, and perhaps z, c and t, are needed. Mend its metadata.")
        if any(n > 1 for letter, n in zip(self.letters, shape, strict=True) if letter not in "czyx"):
            raise FormatError(f"{found}; one time point of c, z, y, x is read. Save it by itself.")

    def geometry(self, shape: Sequence[int], spacing: Triple | None) -> Geometry:
        """The grid of an array; a given spacing goes before the stated one, and tells a unit not stated."""
        sizes = dict(zip(self.letters, shape, strict=True))
        scale, moved = (dict(zip(self.letters, v, strict=False)) for v in (self.scale, self.translation))
        units = {a: millimetres(axis.get("unit")) for a, axis in zip(self.letters, self.axes, strict=True)}
        slices = int(sizes.get("z", 1))
        stated = {a: s * u for a, s in scale.items() if (u := units[a])}
        z, y, x = spacing or complete_spacing(stated, slices, "the OME-Zarr image")
        given = {a: step / scale[a] for a, step in zip("zyx", (z, y, x), strict=True) if scale.get(a, 0) > 0}
        direction = np.asarray(self._direction())
        origin = direction @ [moved.get(a, 0.0) * (units.get(a) or given.get(a, 0.0)) for a in "zyx"]
        return Geometry(
            (slices, int(sizes["y"]), int(sizes["x"])), (z, y, x), tuple(origin.tolist()), self._direction()
        )

    def _direction(self) -> Matrix:
        """Along the world's axes, or as anatomical orientations state where all are known ones."""
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
        return cast("Matrix", tuple(map(tuple, matrix.tolist())))


def _orientation(axis: Mapping[str, Any]) -> str:
    """Its name; ngff-zarr writes it as a text, or as an object as it was first proposed."""
    stated = axis["orientation"]
    return str(stated.get("value") if isinstance(stated, Mapping) else stated)


def _letters(axes: Sequence[Mapping[str, Any]]) -> str:
    """By type and name; where spatial axes have other names, they are z, y, x in this order."""
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
    """What an axis is by itself; a spatial axis of another name counts as z."""
    name, kind = _name(axis), axis.get("type")
    if kind == "space":
        return name if name in _SPATIAL else "z"
    return _TYPES.get(str(kind), name if kind is None and name in _SPATIAL | {"t", "c"} else "?")


def _name(axis: Mapping[str, Any]) -> str:
    return str(axis["name"]).lower()


def _compose(steps: Sequence[Mapping[str, Any]], ndim: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One scale and one translation from several, applied in order; no scale where none is stated."""
    scale, translation = np.ones(ndim), np.zeros(ndim)
    for step in steps:
        kind = step["type"]
        if kind == "identity":
            continue
        values = np.asarray(step[kind], float)
        if kind not in ("scale", "translation") or values.shape != (ndim,) or not np.isfinite(values).all():
            raise ValueError("an unknown transformation, or numbers that cannot be one")
        if kind == "scale":
            scale, translation = scale * values, translation * values
        else:
            translation = translation + values
    stated = any(step["type"] == "scale" for step in steps)
    return tuple(scale.tolist()) if stated else (), tuple(translation.tolist())
