"""nnU-Net's rules for spacing: the target spacing, the new shape, the axis to resample separately.

In: spacings in millimetres and shapes in voxels, z, y, x. Out: numbers. Pure arithmetic.
Source: nnU-Net v2 (Isensee et al., Nature Methods 18, 2021), its experiment planner and resampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxelmill.basics.geometry import Shape, Triple

ANISOTROPY = 3.0
"""An axis is anisotropic when its spacing is more than this many times the others'."""


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Shape:
    """Return the shape of a grid (z, y, x) after resampling to a target spacing.

    It is ``int(round(spacing / target * n))`` on each axis, in this order of operations, with Python's
    rounding (half to even). An axis never falls below one voxel.

    Parameters
    ----------
    shape : (z, y, x)
        Voxels before resampling.
    spacing, target : (z, y, x)
        Millimetres between voxels, before and after.

    Raises
    ------
    ValueError
        If the three do not have three entries each, or a spacing is not positive.
    """
    if not len(shape) == len(spacing) == len(target) == 3:
        raise ValueError(f"shape {shape}, spacing {spacing} and target {target} need three entries each")
    if min(spacing) <= 0 or min(target) <= 0:
        raise ValueError(f"spacing {spacing} and target {target} must be positive")
    z, y, x = (max(1, round(s / t * n)) for n, s, t in zip(shape, spacing, target, strict=True))
    return z, y, x


def target_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> Triple:
    """Return the target spacing of a dataset in millimetres (z, y, x).

    It is the median of each axis. If the axis with the largest median is anisotropic, in spacing and in voxel
    count, it takes the 10th percentile of its spacings instead, but stays above the other axes.

    Parameters
    ----------
    spacings : sequence of (z, y, x)
        Millimetres, one entry per case.
    shapes : sequence of (z, y, x)
        Voxels after cropping, one entry per case.

    Raises
    ------
    ValueError
        If there is no case, or the two differ in length.
    """
    if not len(spacings) == len(shapes) > 0:
        raise ValueError(f"{len(spacings)} spacings and {len(shapes)} shapes: need one of each a case")
    target = np.percentile(np.asarray(spacings, float), 50, axis=0)
    size = np.percentile(np.asarray(shapes, float), 50, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != worst]
    finest_other, most_voxels = target[others].max(), size[others].min()
    if target[worst] > ANISOTROPY * finest_other and size[worst] * ANISOTROPY < most_voxels:
        tenth = np.percentile(np.asarray(spacings, float)[:, worst], 10)
        target[worst] = tenth if tenth >= finest_other else max(finest_other, tenth) + 1e-5
    return float(target[0]), float(target[1]), float(target[2])


def separate_axis(current: Sequence[float], target: Sequence[float]) -> int | None:
    """Return the axis to resample on its own (by default nearest across planes, spline in plane), or None.

    It is the axis of largest current spacing, if that is more than 3 times the smallest; else the same rule
    applies to the target spacing. None if two or three axes share the largest spacing.
    """
    for spacing in (current, target):
        if max(spacing) / min(spacing) > ANISOTROPY:
            largest = [axis for axis in range(3) if spacing[axis] == max(spacing)]
            return largest[0] if len(largest) == 1 else None
    return None
