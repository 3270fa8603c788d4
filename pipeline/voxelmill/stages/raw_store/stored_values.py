"""The stored form of voxels in the raw store: their type and finite values; names of images in messages.

In: volumes. Out: types and arrays. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from voxelmill.basics.errors import FormatError, ValueRuleError
from voxelmill.basics.volume import Array, Volume
from voxelmill.kernels.statistics.voxel_values import rescale


def image_names(images: int, channels: Sequence[str] | None) -> list[str]:
    """Return the names of a case's images in messages; channel names are used if there is one per image."""
    if channels is None or len(channels) != images:
        return [f"channel {i}" for i in range(images)]
    return [f"channel {i} ({name})" for i, name in enumerate(channels)]


def stored_dtype(volume: Volume) -> np.dtype[Any]:
    """Return the type in the raw store; floats with a slope or intercept are stored as float32 values.

    Raises
    ------
    FormatError
        If the voxels are not real numbers.
    """
    if volume.dtype.kind == "b":
        return np.dtype(np.uint8)
    if volume.dtype.kind not in "iuf":
        raise FormatError(f"voxels are {volume.dtype}; real numbers are needed. Convert the image.")
    return np.dtype(np.float32) if _is_rescaled_float(volume) else volume.dtype


def rescaling(volume: Volume) -> tuple[float, float]:
    """Return the slope and intercept that turn stored values into values."""
    return (1.0, 0.0) if _is_rescaled_float(volume) else (volume.slope, volume.intercept)


def _is_rescaled_float(volume: Volume) -> bool:
    return volume.dtype.kind == "f" and (volume.slope, volume.intercept) != (1.0, 0.0)


def as_stored(data: Array, volume: Volume, nonfinite: str, z: int = 0) -> Array:
    """Convert voxels (..., y, x) of a volume to their stored form, all finite; one slice at a time.

    Parameters
    ----------
    data : array (..., y, x)
        Voxels as the reader returns them. Writeable data of the stored type are changed in place.
    volume : Volume
        The volume that they belong to.
    nonfinite : {"fail", "zero"}
        What happens to voxels that are NaN, infinite, or beyond float32.
    z : int
        Index of the first slice, for the message.

    Raises
    ------
    ValueRuleError
        If a voxel is not finite, and `nonfinite` is "fail".
    """
    dtype = stored_dtype(volume)
    if dtype.kind != "f":
        return data.astype(dtype, copy=False)
    out = data if data.dtype == dtype and data.flags.writeable else np.empty(data.shape, dtype)
    for at in np.ndindex(data.shape[:-2]):
        plane = data[at]
        if _is_rescaled_float(volume):
            plane = rescale(plane, volume.slope, volume.intercept)
        finite = np.isfinite(rescale(plane) if dtype.itemsize > 4 else plane)
        if not finite.all():
            if nonfinite == "fail":
                raise ValueRuleError(
                    f"{int(finite.size - finite.sum())} voxels of slice {z + at[-1]} are NaN, infinite or "
                    "beyond float32; finite values are needed. Mend the file, or accept them as zero: "
                    "--set nonfinite=zero."
                )
            plane = np.where(finite, plane, dtype.type(0))
        out[at] = plane
    return out
