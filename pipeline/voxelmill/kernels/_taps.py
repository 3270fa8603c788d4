"""`resample` with whole-array operations, for arrays on a GPU: one tap of one axis at a time.

Like the compiled sweeps, each output voxel adds its taps in a fixed order, so cutting changes no bit; a
matrix product would choose its order by the shape of the box.
"""

from __future__ import annotations

from typing import Any

from voxelmill.kernels.backend import get_array_module


def sweep(
    volume: Any,
    steps: list[tuple[Any, Any]],
    factors: list[float],
    separate: bool,
    low: Any,
    high: Any,
    middle: Any,
    out: Any,
) -> None:
    """Resample one volume; the parameters are those of the compiled `sweep`."""
    module = get_array_module(volume)
    result = volume - middle
    for axis in sorted((1, 2) if separate else (0, 1, 2), key=factors.__getitem__):
        result = _apply(result, *steps[axis], axis)
    if separate:
        bounds = [module.asarray(limit - middle)[:, None, None] for limit in (low, high)]
        out[...] = _apply(result.clip(*bounds), *steps[0], 0) + middle
    else:
        out[...] = (result + middle).clip(float(low[0]), float(high[0]))


def _apply(volume: Any, first: Any, weights: Any, axis: int) -> Any:
    """``W @ volume`` along one axis."""
    module = get_array_module(volume)
    if weights.shape[1] == 1:
        return volume.take(module.asarray(first), axis)
    last, shape = volume.shape[axis] - 1, [-1 if axis == k else 1 for k in range(3)]
    result: Any = 0
    for t in range(weights.shape[1]):
        voxels = volume.take(module.asarray((first + t).clip(0, last)), axis)
        result = result + module.asarray(weights[:, t]).reshape(shape) * voxels
    return result
