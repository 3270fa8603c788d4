"""nnU-Net's rules on the 3D training patch, and on the lowres spacing that follows from it.

In: target spacing and median shape of the resampled cases (z, y, x), number of classes. Out: the patch size
in voxels, the lowres spacing in millimetres. Pure arithmetic.
Source: nnU-Net v2.8.1 (Isensee et al., Nature Methods 18, 2021), `ExperimentPlanner` for 8 GB with a
`PlainConvUNet`. Its planned order of axes, the one of largest spacing first, is made and undone here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from voxelmill.basics.geometry import Shape, Triple

T = TypeVar("T")

START_VOXELS = 256**3
"""Voxels of the cube in millimetres that a patch is shrunk from."""

MAX_FEATURES = 560_000_000
"""Values that the feature maps of one patch may have; nnU-Net holds it for a batch of two in 8 GB."""

MIN_SIDE = 4
"""Pooling leaves at least this many voxels a side."""

SMALL_PATCH = 0.25
"""Below this fraction of the median case in a patch, nnU-Net makes a lowres configuration."""

COARSER = 1.03
"""Factor between one spacing that is tried for lowres and the next."""


def patch_size(target: Sequence[float], median_shape: Sequence[float], classes: int) -> Shape:
    """Patch that nnU-Net plans for its 3D U-Net.

    A cube in millimetres, no larger than the median case, filled up to sides that the network can halve.
    While the feature maps take too much memory, the side largest against the median case is shortened.

    Parameters
    ----------
    target : (z, y, x)
        Millimetres.
    median_shape : (z, y, x)
        Median of the cases' shapes after resampling, in voxels; halves occur.
    classes : int
        Labels that are told apart, background included.
    """
    axes = _planned_order(target)
    patch = _patch([target[a] for a in axes], [median_shape[a] for a in axes], classes)
    return _undo(axes, patch)


def lowres_spacing(target: Sequence[float], median_shape: Sequence[float], classes: int) -> Triple | None:
    """Target spacing of the lowres configuration, or None where nnU-Net makes none.

    It makes one where the patch is below a quarter of the median case. The spacing grows by 3 % a step, on
    axes less than half the largest spacing alone while there are any, until the patch planned for it is a
    quarter. None too where that leaves more than half the voxels, or the cases are single slices.
    A median case keeps at least one voxel a side, where nnU-Net's planner would fail.
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
    """nnU-Net's `transpose_forward`; it decides where sides tie."""
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
        # A shorter side may be halved less often: its own divisor is the step, not the longer one's.
        shorter = [n - (a == axis) * _divisors(strides)[a] for a, n in enumerate(patch)]
        _, shorter_strides = _pooled(shorter, spacing)
        step = _divisors(shorter_strides)[axis]
        if patch[axis] <= step:
            break
        patch, strides = _pooled([n - (a == axis) * step for a, n in enumerate(patch)], spacing)
    return patch


def _pooled(size: Sequence[float], spacing: Sequence[float]) -> tuple[list[int], list[list[int]]]:
    """`size` filled up so that the network's strides divide it, and these, (z, y, x) a stage after the first.

    A stage halves the axes that are long enough and have less than twice the smallest spacing of those. An
    axis alone must be a little longer.
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
    """Values of all feature maps: two convolutions a stage, on the way up one more for upsampling."""
    total, voxels = 0, math.prod(patch)
    for stage in range(len(strides) + 1):
        features = min(320, 32 * 2**stage)
        if stage > 0:
            voxels //= math.prod(strides[stage - 1])
        total += (2 if stage == len(strides) else 5) * features * voxels
    return total + (classes * math.prod(patch) if strides else 0)
