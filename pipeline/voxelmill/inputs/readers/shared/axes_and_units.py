"""Helpers for microscopy formats: axes named by letters, units of length, and a cache of one piece.

In: arrays, axis letters, names of units. Out: transposed arrays, millimetres. It knows no format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy.typing as npt

from voxelmill.basics.errors import SpacingError
from voxelmill.basics.geometry import Triple

Array = npt.NDArray[Any]
T = TypeVar("T")

# millimetres per unit
_NAMES = {
    "angstrom": 1e-7,
    "picometer": 1e-9,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "micron": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "decimeter": 100.0,
    "meter": 1000.0,
    "inch": 25.4,
    "foot": 304.8,
}
_SYMBOLS = {
    "\u00c5": 1e-7,  # the letter A with ring; the next key is the angstrom sign
    "\u212b": 1e-7,
    "pm": 1e-9,
    "nm": 1e-6,
    "um": 1e-3,
    "\u00b5m": 1e-3,  # the micro sign; the next key is the Greek letter mu
    "\u03bcm": 1e-3,
    "mm": 1.0,
    "cm": 10.0,
    "dm": 100.0,
    "m": 1000.0,
    "in": 25.4,
    "ft": 304.8,
}
_PLURALS = {"inches": "inch", "feet": "foot"}


def millimetres(unit: object) -> float | None:
    """Return the length of a unit, given by UDUNITS name (singular or plural) or symbol; None if unknown."""
    if not isinstance(unit, str):
        return None
    symbol = unit.strip().replace("\\u00B5", "\u00b5")  # as ImageJ escapes it
    name = symbol.lower().replace("metre", "meter")
    return _SYMBOLS.get(symbol, _NAMES.get(_PLURALS.get(name, name.removesuffix("s"))))


def arrange(array: Array, axes: str, wanted: str) -> Array:
    """Return a view with the axes in the `wanted` order; axes that `array` lacks get length 1."""
    lacking = "".join(axis for axis in wanted if axis not in axes)
    present = axes + lacking
    view = array.reshape(*array.shape, *(1 for _ in lacking)) if lacking else array
    return view.transpose([present.index(axis) for axis in wanted])


def complete_spacing(stated: Mapping[str, float], slices: int, what: str) -> Triple:
    """Return the spacing (z, y, x) in millimetres from the steps that a file states per axis.

    Parameters
    ----------
    stated : mapping of str to float
        Millimetres along "z", "y" and "x", as far as stated.
    slices : int
        Length of z; a single slice needs no spacing along z.
    what : str
        Subject of the error message.

    Raises
    ------
    SpacingError
        If an axis has no usable spacing; names the axes.
    """
    known = {axis: step for axis, step in stated.items() if 0 < step < float("inf")}
    if slices == 1:
        known.setdefault("z", 1.0)
    lacking = [axis for axis in "zyx" if axis not in known]
    if lacking:
        raise SpacingError(
            f"{what} states no spacing in a known unit of length along {', '.join(lacking)}. Add a `spacing` "
            'column "z,y,x" in mm to a manifest, or a <case>.json beside the image with '
            '{"spacing": [z, y, x]}.'
        )
    return known["z"], known["y"], known["x"]


class Latest(Generic[T]):
    """A cache of the piece read last, which is dropped before the next one is read."""

    def __init__(self, read: Callable[[int], T]) -> None:
        self._read = read
        self._held: tuple[int, T] | None = None

    def __getitem__(self, number: int) -> T:
        if self._held is None or self._held[0] != number:
            self._held = None
            self._held = (number, self._read(number))
        return self._held[1]
