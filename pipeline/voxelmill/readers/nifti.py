"""NIfTI-1 and NIfTI-2 single files, .nii and .nii.gz.

In: a path. Out: a volume; further dimensions than three become channels. nibabel understands the header,
the voxels are read here as they are stored.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.errors import FormatError, GeometryError, SpacingError
from voxelmill.geometry import Geometry, Triple
from voxelmill.readers import inflate
from voxelmill.readers.common import Hints, PackedVolume, Packing, fill, open_stream, supported
from voxelmill.volume import Volume

_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MAGICS = {348: b"n+1\0", 540: b"n+2\0"}
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # codes for metres and micrometres
_MENDING = "Restore the file, or convert it again from its source."


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a NIfTI file; see `voxelmill.readers.open_volume`."""
    codec = "gzip" if path.name.lower().endswith(".gz") else None
    header = _read_header(path, codec)
    size, channels = _split(header.get_data_shape())
    slope, intercept = _scaling(header)
    return PackedVolume(
        _geometry(header, size, hints.spacing),
        Packing(path, _dtype(header), skip=int(header["vox_offset"]), codec=codec),
        channels=channels,
        slope=slope,
        intercept=intercept,
    )


def _read_header(path: Path, codec: str | None) -> Any:
    import nibabel

    block = np.zeros(540, np.uint8)
    with closing(open_stream(path, codec)) as stream:
        try:
            found = fill(stream, block)
        except inflate.ERRORS:
            raise FormatError(f"the file does not decompress as .gz. {_MENDING}") from None
    for size, name in _SIZES.items():
        head = block[:size].tobytes()
        if size in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")) and found >= size:
            _check_magic(head, size)
            return getattr(nibabel, name)(head, check=False)
    raise FormatError(f"the file does not start with a NIfTI-1 or NIfTI-2 header. {_MENDING}")


def _dtype(header: Any) -> np.dtype[Any]:
    try:
        return supported(header.get_data_dtype())
    except KeyError:
        raise FormatError(
            f"the NIfTI header has data type {int(header['datatype'])}, which nothing defines. {_MENDING}"
        ) from None


def _check_magic(head: bytes, size: int) -> None:
    magic = head[344:348] if size == 348 else head[4:8]
    if magic != _MAGICS[size]:
        raise FormatError(
            f"the NIfTI header has magic {magic!r}; {_MAGICS[size]!r} is needed, "
            f"which a single file of header and voxels has. {_MENDING}"
        )


def _split(dims: tuple[int, ...]) -> tuple[tuple[int, int, int], int]:
    """Size in x, y, z, and the number of channels."""
    x, y, z, *further = [int(n) for n in dims] + [1] * (3 - len(dims))
    if len(dims) < 2 or min(dims) < 1 or sum(n > 1 for n in further) > 1:
        raise FormatError(
            f"the NIfTI header has dimensions {tuple(int(n) for n in dims)}; two or three, and besides them "
            "either channels or time points, are read. Split the file."
        )
    return (x, y, z), prod(further)


def _geometry(header: Any, size: tuple[int, int, int], spacing: Triple | None) -> Geometry:
    """Grid in millimetres; where the header says nothing of orientation, along the axes as in ITK."""
    scale = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    steps = _steps(header, scale, spacing)
    header["pixdim"][1:4] = steps / scale
    if header["sform_code"] > 0 or header["qform_code"] > 0:
        affine = np.diag([scale, scale, scale, 1.0]) @ _affine(header)
    else:
        affine = np.diag([-steps[0], -steps[1], steps[2], 1.0])
    geometry = Geometry.from_ras_affine(size, affine)
    if np.allclose(geometry.spacing, steps[::-1], rtol=1e-3):  # the affine repeats it with more rounding
        geometry = replace(geometry, spacing=_reversed(steps))
    return geometry


def _steps(header: Any, scale: float, spacing: Triple | None) -> npt.NDArray[np.float64]:
    """Millimetres between voxels in x, y, z."""
    if spacing is not None:
        return np.array(spacing[::-1])
    steps: npt.NDArray[np.float64] = np.abs(header["pixdim"][1:4].astype(float)) * scale
    if header["dim"][0] == 2 and steps[2] == 0:
        steps[2] = 1.0
    if not (np.isfinite(steps) & (steps > 0)).all():
        raise SpacingError(
            f"the NIfTI header has spacing {_reversed(steps)} mm (z, y, x); every axis needs a positive "
            "number. Mend the header, or add a `spacing` column to a manifest."
        )
    return steps


def _affine(header: Any) -> npt.NDArray[np.float64]:
    from nibabel.spatialimages import HeaderDataError

    try:
        affine: npt.NDArray[np.float64] = np.asarray(header.get_best_affine(), float)
        return affine
    except (ValueError, HeaderDataError):
        raise GeometryError(f"the NIfTI header has a quaternion that is no rotation. {_MENDING}") from None


def _scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept; a slope of zero or NaN means none."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise FormatError(f"the NIfTI header has slope {slope} and intercept {intercept}. {_MENDING}")
    return slope, intercept


def _reversed(steps: npt.NDArray[np.float64]) -> Triple:
    x, y, z = steps.tolist()
    return z, y, x
