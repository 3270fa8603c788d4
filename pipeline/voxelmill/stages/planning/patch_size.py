"""nnU-Net's rules for the 3D training patch, and for the lowres spacing that follows from it.

In: target spacing and median shape of the resampled cases (z, y, x), number of classes. Out: the patch size
in voxels, the lowres spacing in millimetres. Pure arithmetic.
Source: nnU-Net v2.8.1 (Isensee et al., Nature Methods 18, 2021), `ExperimentPlanner` for 8 GB with a
`PlainConvUNet`. nnU-Net plans with the axis of largest spacing first; that order is applied and undone here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from voxelmill.basics.geometry import Shape, Triple

T = TypeVar("T")

START_VOXELS = 256**3
"""Voxels of the cube in millimetres that the patch starts from."""

MAX_FEATURES = 560_000_000
"""Most values in the feature maps of one patch; in nnU-Net this limit stands for a batch of two in 8 GB."""

MIN_SIDE = 4
"""Fewest voxels per side that pooling leaves."""

SMALL_PATCH = 0.25
"""nnU-Net makes a lowres configuration if a patch holds less than this fraction of the median case."""

COARSER = 1.03
"""Factor between one spacing tried for lowres and the next."""


def patch_size(target: Sequence[float], median_shape: Sequence[float], classes: int) -> Shape:
    """Return the patch that nnU-Net plans for its 3D U-Net, in voxels (z, y, x).

    The patch starts as a cube in millimetres, no larger than the median case, with sides rounded up so that
    the network can halve them. While the feature maps take too much memory, the side that is largest relative
    to the median case is shortened.

    Parameters
    ----------
    target : (z, y, x)
        Target spacing in millimetres.
    median_shape : (z, y, x)
        Median of the cases' shapes after resampling, in voxels; a median may end in .5.
    classes : int
        Number of labels, background included.
    """
    axes = _planned_order(target)
    patch = _patch([target[a] for a in axes], [median_shape[a] for a in axes], classes)
    return _undo(axes, patch)


def lowres_spacing(target: Sequence[float], median_shape: Sequence[float], classes: int) -> Triple | None:
    """Return the target spacing of the lowres configuration in millimetres, or None if nnU-Net makes none.

    nnU-Net makes one if the patch holds less than a quarter of the median case. The spacing grows by 3 % per
    step until the patch planned for it holds a quarter. Axes with less than half the largest spacing grow
    first, alone. The result is also None if this leaves more than half of the voxels, or if the cases are
    single slices. The median case keeps at least one voxel per side here; nnU-Net's planner would fail.
    Parameters are those of `patch_size`.
    """
    axes = _planned_order(target)
    fine = np.array([target[a] for a in axes], np.float64)
    median = np.array([median_shape[a] for a in axes], np.float64)
    if median[0] == 1:
        return None
    spacing, voxels = fine.copy(), median.prod()
    patch = _patch(fine.tolist(), median.tolist(), classes)
    while math.prod(patch) / voxels < SMALL_PATCH:
        behind = spacing.max() / spacing > 2
        spacing[behind if behind.any() else slice(None)] *= COARSER
        shape = fine / spacing * median
        voxels = shape.prod()
        patch = _patch(spacing.tolist(), [max(1, round(n)) for n in shape.tolist()], classes)
    if median.prod() / voxels < 2:
        return None
    return _undo(axes, spacing.tolist())


def _planned_order(target: Sequence[float]) -> list[int]:
    """Return nnU-Net's `transpose_forward`: the order decides ties between sides."""
    worst = int(np.argmax(target))
    return [worst, *(axis for axis in range(3) if axis != worst)]


def _undo(axes: Sequence[int], values: Sequence[T]) -> tuple[T, T, T]:
    z, y, x = (values[axes.index(axis)] for axis in range(3))
    return z, y, x


def _patch(spacing: Sequence[float], median: Sequence[float], classes: int) -> list[int]:
    aspect = 1 / np.array(spacing)
    cube = aspect * (START_VOXELS / np.prod(aspect)) ** (1 / 3)
    patch, strides = _pooled([min(round(n), m) for n, m in zip(cube.tolist(), median, strict=True)], spacing)
    while _feature_values(patch, strides, classes) > MAX_FEATURES:
        ratios = [n / m for n, m in zip(patch, median, strict=True)]
        axis = max(range(3), key=lambda a: (ratios[a], a))
        # The shorter side may be halved less often, so the step is its divisor, not that of the longer side.
        shorter = [n - (a == axis) * _divisors(strides)[a] for a, n in enumerate(patch)]
        _, shorter_strides = _pooled(shorter, spacing)
        step = _divisors(shorter_strides)[axis]
        if patch[axis] <= step:
            break
        patch, strides = _pooled([n - (a == axis) * step for a, n in enumerate(patch)], spacing)
    return patch


def _pooled(size: Sequence[float], spacing: Sequence[float]) -> tuple[list[int], list[list[int]]]:
    """Return `size` rounded up to multiples of the network's strides, and each stage's strides (z, y, x).

    The first stage has none. A stage halves the axes that are long enough, and whose spacing is less than
    twice the smallest spacing among these. An axis that is halved alone must be longer: `3 * MIN_SIDE`.
    """
    left, mm = list(size), list(spacing)
    strides: list[list[int]] = []
    while long := [a for a in range(3) if left[a] >= 2 * MIN_SIDE]:
        smallest = min(mm[a] for a in long)
        halved = [a for a in long if mm[a] / smallest < 2]
        if len(halved) == 1 and left[halved[0]] < 3 * MIN_SIDE:
            break
        strides.append([2 if a in halved else 1 for a in range(3)])
        for a in halved:
            left[a], mm[a] = math.ceil(left[a] / 2), mm[a] * 2
    return [math.ceil(n / d) * d for n, d in zip(size, _divisors(strides), strict=True)], strides


def _divisors(strides: Sequence[Sequence[int]]) -> list[int]:
    return [math.prod(stride[a] for stride in strides) for a in range(3)]


def _feature_values(patch: Sequence[int], strides: Sequence[Sequence[int]], classes: int) -> int:
    """Count the values of all feature maps: two convolutions per stage, on the way up also an upsampling."""
    total, voxels = 0, math.prod(patch)
    for stage in range(len(strides) + 1):
        features = min(320, 32 * 2**stage)
        if stage > 0:
            voxels //= math.prod(strides[stage - 1])
        total += (2 if stage == len(strides) else 5) * features * voxels
    return total + (classes * math.prod(patch) if strides else 0)
