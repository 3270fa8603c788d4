"""Grids of MetaImage and NRRD files, as ITK reads them, so that conventions and defaults are ITK's own.

In: a path. Out: a `Header` with a `Geometry`. No voxel is read.
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
    """The grid and the channels of an image.

    Attributes
    ----------
    geometry : Geometry
        The grid of the first three axes.
    channels : int
        Values per voxel, or length of the fourth axis.
    is_interleaved : bool
        Whether the channels of a voxel lie together.
    """

    geometry: Geometry
    channels: int
    is_interleaved: bool


def read_header(path: Path) -> Header:
    """Read the header of a file with ITK.

    Raises
    ------
    FormatError
        If ITK cannot read it, or it does not have two or three axes, besides channels or time points.
    """
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
