"""Signs in a plan of a mistake in the source: lengths in another unit, images one voxel thin.

In: a Plan. Out: a sentence for each case that looks wrong. All of them may be right, so nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Box
from voxelmill.stages.planning.plan_json import CasePlan, ConfigurationPlan, Plan

UNLIKE = 30.0
"""A spacing or extent this many times larger or smaller than the dataset's median suggests a wrong unit."""

MANY_VOXELS = 1000.0
"""A new volume suggests a wrong unit if it has more than this many times the voxels of the crop box."""


def doubts(plan: Plan) -> dict[str, str]:
    """Return the first reason for doubt of each case that looks wrong."""
    found: dict[str, str] = {}
    for of in plan.configurations.values():
        for case, reason in _doubts(of):
            found.setdefault(case, reason)
    return found


def _doubts(of: ConfigurationPlan) -> Iterator[tuple[str, str]]:
    rows = list(of.cases.values())
    if not rows:
        return
    usual = np.exp(np.median(np.log([_lengths(row) for row in rows]), axis=0))
    for case, row in of.cases.items():
        reason = _unlike(_lengths(row), usual) or _grown(row) or _thin(row)
        if reason:
            yield case, reason


def _lengths(row: CasePlan) -> npt.NDArray[np.float64]:
    """Return the side of a cube with a voxel's volume, and of one with the image's volume, in millimetres."""
    spacing = np.asarray(row.source_spacing)
    sides = [np.prod(spacing), np.prod(spacing * row.source_shape)]
    return np.cbrt(sides)


def _unlike(lengths: npt.NDArray[np.float64], usual: npt.NDArray[np.float64]) -> str | None:
    for what, length, middle in zip(("spacing", "extent"), lengths, usual, strict=True):
        if max(length / middle, middle / length) > UNLIKE:
            return (
                f"its {what} is about {length:.3g} mm, the middle one of the dataset {middle:.3g} mm; is it "
                "in millimetres?"
            )
    return None


def _grown(row: CasePlan) -> str | None:
    before = Box.from_bounds(row.crop_box).shape
    if np.prod(row.shape, dtype=float) <= MANY_VOXELS * np.prod(before, dtype=float):
        return None
    return (
        f"{_words(before)} voxels become {_words(row.shape)}; are its spacing and target_spacing in "
        "millimetres?"
    )


def _thin(row: CasePlan) -> str | None:
    before = Box.from_bounds(row.crop_box).shape
    axes = [axis for axis in range(3) if row.shape[axis] == 1 < before[axis]]
    if not axes:
        return None
    return (
        f"{before[axes[0]]} voxels along {'zyx'[axes[0]]} become 1: {_words(before)} become "
        f"{_words(row.shape)}; are its spacing and target_spacing right?"
    )


def _words(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)
