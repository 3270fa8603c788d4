"""NIfTI-1 and NIfTI-2 single files, .nii and .nii.gz.

In: a path. Out: a volume; further dimensions than three become channels. nibabel understands the header,
the voxels are read here as they are stored.
"""

from __future__ import annotations

from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from voxelmill.errors import FormatError
from voxelmill.readers import inflate
from voxelmill.readers.common import Hints, PackedVolume, Packing, fill, open_stream, supported
from voxelmill.readers.nifti_grid import MENDING, make_geometry
from voxelmill.volume import Volume

_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
_MAGICS = {348: b"n+1\0", 540: b"n+2\0"}


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a NIfTI file; see `voxelmill.readers.open_volume`."""
    codec = "gzip" if path.name.lower().endswith(".gz") else None
    header = _read_header(path, codec)
    size, channels = _split(header.get_data_shape())
    slope, intercept = _scaling(header)
    geometry, repairs = make_geometry(header, size, hints)
    return PackedVolume(
        geometry,
        Packing(path, _dtype(header), skip=int(header["vox_offset"]), codec=codec),
        channels=channels,
        slope=slope,
        intercept=intercept,
        repairs=repairs,
    )


def _read_header(path: Path, codec: str | None) -> Any:
    import nibabel

    block = np.zeros(540, np.uint8)
    with closing(open_stream(path, codec)) as stream:
        try:
            found = fill(stream, block)
        except inflate.ERRORS:
            raise FormatError(f"the file does not decompress as .gz. {MENDING}") from None
    for size, name in _SIZES.items():
        head = block[:size].tobytes()
        if size in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")) and found >= size:
            _check_magic(head, size)
            return getattr(nibabel, name)(head, check=False)
    raise FormatError(f"the file does not start with a NIfTI-1 or NIfTI-2 header. {MENDING}")


def _dtype(header: Any) -> np.dtype[Any]:
    try:
        return supported(header.get_data_dtype())
    except KeyError:
        raise FormatError(
            f"the NIfTI header has data type {int(header['datatype'])}, which nothing defines. {MENDING}"
        ) from None


def _check_magic(head: bytes, size: int) -> None:
    magic = head[344:348] if size == 348 else head[4:8]
    if magic != _MAGICS[size]:
        raise FormatError(
            f"the NIfTI header has magic {magic!r}; {_MAGICS[size]!r} is needed, "
            f"which a single file of header and voxels has. {MENDING}"
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


def _scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept; a slope of zero or NaN means none."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise FormatError(f"the NIfTI header has slope {slope} and intercept {intercept}. {MENDING}")
    return slope, intercept
