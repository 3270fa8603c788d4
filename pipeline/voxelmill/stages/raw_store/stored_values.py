"""What the raw store holds of a voxel, its type and its finite value; and what messages call images.

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
    """What messages call the images of a case; `channels` are names of channels, one an image or not."""
    if channels is None or len(channels) != images:
        return [f"channel {i}" for i in range(images)]
    return [f"channel {i} ({name})" for i, name in enumerate(channels)]


def stored_dtype(volume: Volume) -> np.dtype[Any]:
    """Type in the raw store; rescaled floats are stored as their values."""
    if volume.dtype.kind == "b":
        return np.dtype(np.uint8)
    if volume.dtype.kind not in "iuf":
        raise FormatError(f"voxels are {volume.dtype}; real numbers are needed. Convert the image.")
    return np.dtype(np.float32) if _is_rescaled_float(volume) else volume.dtype


def rescaling(volume: Volume) -> tuple[float, float]:
    """Slope and intercept that stored values still need."""
    return (1.0, 0.0) if _is_rescaled_float(volume) else (volume.slope, volume.intercept)


def _is_rescaled_float(volume: Volume) -> bool:
    return volume.dtype.kind == "f" and (volume.slope, volume.intercept) != (1.0, 0.0)


def as_stored(data: Array, volume: Volume, nonfinite: str, z: int = 0) -> Array:
    """Voxels (..., y, x) of a volume as they are stored, every one finite; slice by slice.

    Parameters
    ----------
    nonfinite : {"fail", "zero"}
        What voxels do that are NaN, infinite, or beyond float32.
    z : int
        Where the slices begin, for the message.

    Raises
    ------
    ValueRuleError
        If a voxel is not finite and shall fail.
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
