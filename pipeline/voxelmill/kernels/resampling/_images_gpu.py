"""`resample` for arrays on a GPU, with whole-array operations: one tap of one axis at a time.

Each output voxel adds its taps in a fixed order, as in the compiled sweeps, so computing a volume in boxes
changes no bit. A matrix product would choose the order by the shape of the box.
"""

from __future__ import annotations

from typing import Any

from voxelmill.kernels.backend import get_array_module
from voxelmill.kernels.resampling.axis_matrix import Band


def sweep(
    volume: Any,
    begin: list[int],
    bands: list[Band],
    factors: list[float],
    separate: bool,
    limits: tuple[Any, Any],
    middle: float,
    out: Any,
) -> None:
    """Resample one volume; the parameters are those of the compiled `sweep`, with bands instead of steps."""
    module = get_array_module(volume)
    result = volume - out.dtype.type(middle)
    for axis in sorted((1, 2) if separate else (0, 1, 2), key=factors.__getitem__):
        result = _apply(result, bands[axis], begin[axis], axis)
    low, high = (module.asarray(limit - middle, out.dtype) for limit in limits)
    if separate:
        result = _apply(result.clip(low[:, None, None], high[:, None, None]), bands[0], begin[0], 0)
    else:
        result = result.clip(low, high)
    out[...] = result + out.dtype.type(middle)


def _apply(volume: Any, band: Band, begin: int, axis: int) -> Any:
    """Return ``W @ volume`` along one axis."""
    module = get_array_module(volume)
    last, shape = volume.shape[axis] - 1, [-1 if axis == k else 1 for k in range(3)]
    result: Any = 0
    for t in range(band.weights.shape[1]):
        voxels = volume.take(module.asarray((band.first + t - begin).clip(0, last)), axis)
        result = result + module.asarray(band.weights[:, t]).reshape(shape) * voxels
    return result
