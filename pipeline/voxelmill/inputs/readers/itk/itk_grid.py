"""Grids of MetaImage and NRRD files, as ITK understands them.

In: a path and what its own header says of the bytes. Out: a `Geometry`, so that conventions and their
defaults are ITK's own. Reads no voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from voxelmill.basics.errors import FormatError
from voxelmill.basics.geometry import Geometry


@dataclass(frozen=True)
class Header:
    """What ITK says of an image: `size` in x, y, z and the channels of a voxel or along a fourth axis."""

    geometry: Geometry
    channels: int
    is_interleaved: bool


def read_header(path: Path) -> Header:
    """Let ITK read the header of a file."""
    sitk: Any = import_module("SimpleITK")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # warnings name the file
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise FormatError(
            "ITK does not read the header of the file. Restore it, or convert it from its source."
        ) from None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    return _header(
        reader.GetSize(),
        reader.GetSpacing(),
        reader.GetOrigin(),
        reader.GetDirection(),
        reader.GetNumberOfComponents(),
    )


def _header(
    size: tuple[int, ...],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    direction: tuple[float, ...],
    components: int,
) -> Header:
    ndim = len(size)
    frames = size[3] if ndim == 4 else 1
    if not 2 <= ndim <= 4 or (frames > 1 and components > 1):
        raise FormatError(
            f"the file has {ndim} axes and {components} values a voxel; two or three axes, and besides them "
            "either values or time points, are read. Split the file."
        )
    matrix = np.eye(3)
    used = min(ndim, 3)
    matrix[:used, :used] = np.reshape(direction, (ndim, ndim))[:used, :used]
    geometry = Geometry.from_itk(
        (*size, 1)[:3], (*spacing, 1.0)[:3], (*origin, 0.0)[:3], matrix.ravel().tolist()
    )
    return Header(geometry, frames * components, components > 1)
