"""The spacing that a TIFF file states in OME's or ImageJ's metadata.

In: an open file. Out: millimetres along those of z, y and x that have a unit. Plain resolution tags are not
trusted, because most programs write 72 dots per inch for any image, and neither are such values that ImageJ
copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from typing import Any
from xml.etree import ElementTree

import tifffile

from voxelmill.inputs.readers.shared.axes_and_units import millimetres

_RESOLUTION_UNITS = {2: "inch", 3: "cm"}

_PRINTED = (72, 96, 150, 300)
"""Dots per inch that programs write into images of unknown resolution; 1 per unit counts likewise."""


def stated_spacing(tif: tifffile.TiffFile) -> dict[str, float]:
    """Return the spacing in millimetres along each of "z", "y" and "x" that is stated."""
    found = _from_ome(ome_pixels(tif)) if tif.is_ome else _from_imagej(tif) if tif.is_imagej else {}
    return {axis: step for axis, step in found.items() if step is not None}


def ome_pixels(tif: tifffile.TiffFile) -> Mapping[str, str]:
    """Return the attributes of the first Pixels element of the OME metadata; empty if there is none."""
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "<none/>")
    except ElementTree.ParseError:
        return {}
    return next((element.attrib for element in root.iter() if element.tag.endswith("Pixels")), {})


def _from_ome(pixels: Mapping[str, str]) -> dict[str, float | None]:
    """Return the PhysicalSize of each axis; the default unit is micrometres, as in the OME schema."""
    return {
        axis.lower(): _length(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "ZYX"
    }


def _from_imagej(tif: tifffile.TiffFile) -> dict[str, float | None]:
    """Return x and y from the resolution tags (voxels per unit), and z from the description."""
    facts, tags = tif.imagej_metadata or {}, tif.pages.first.tags
    y, x = (_per_voxel(tags.valueof(name)) for name in ("YResolution", "XResolution"))
    tag = _RESOLUTION_UNITS.get(tags.valueof("ResolutionUnit", 1))
    said = facts.get("unit")
    unit = None if any(_is_default(step, said, tag) for step in (y, x)) else said or tag
    return {
        "z": _length(facts.get("spacing"), facts.get("zunit", unit)),
        "y": _length(y, facts.get("yunit", unit)),
        "x": _length(x, unit),
    }


def _is_default(step: float | None, said: Any, tag: str | None) -> bool:
    """Return whether a step is that of an uncalibrated image: printers' dots, or 1 without a unit."""
    scale = millimetres(said or tag)
    if not step or scale is None or millimetres(said) not in (None, 10.0, 25.4):
        return False
    dots = 25.4 / (step * scale)
    return (not said and isclose(step, 1)) or any(isclose(dots, n, rel_tol=2e-3) for n in _PRINTED)


def _per_voxel(resolution: Any) -> float | None:
    numerator, denominator = resolution or (0, 1)
    return denominator / numerator if numerator else None


def _length(value: Any, unit: Any) -> float | None:
    scale = millimetres(unit)
    try:
        return None if value is None or scale is None else float(value) * scale
    except (TypeError, ValueError):
        return None
