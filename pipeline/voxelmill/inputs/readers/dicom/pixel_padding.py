"""Voxels that a DICOM series marks as holding nothing: which they are, and what they become.

In: a header, or decoded slices. Out: a range of stored values, masks, and the lowest value of other voxels.

PixelPaddingValue (0028,0120), with PixelPaddingRangeLimit (0028,0121) one end of a range, is in stored units.
Its type follows PixelRepresentation, but programs write either: 63536 stands for -2000 where voxels have 16
bits and a sign, and the other way round. It is compared as voxels are, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Padding:
    """Stored values from `low` to `high`, both included, that mean nothing."""

    low: int
    high: int

    def mask(self, stored: Array) -> npt.NDArray[np.bool_]:
        """Which voxels hold nothing."""
        if self.low == self.high:
            return np.asarray(stored == self.low)
        return np.asarray((stored >= self.low) & (stored <= self.high))

    def words(self, slope: float, intercept: float) -> str:
        """As it is stated, and as values."""
        ends = sorted({self.low, self.high})
        values = sorted(end * slope + intercept for end in ends)
        stated, means = " to ".join(map(str, ends)), " to ".join(f"{value:g}" for value in values)
        return f"PixelPaddingValue {stated} ({means} once rescaled)"


def stated_padding(header: Any, slope: float, intercept: float) -> Padding | None:
    """The padding of an image.

    None where none is stated, or none that its bits can hold, or one that is 0 once it is rescaled: that is
    background already, which the crop to non-zero voxels lives by.
    """
    ends = [header.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if not isinstance(ends[0], int):
        return None
    is_signed, allocated = bool(header.get("PixelRepresentation", 0)), int(header.BitsAllocated)
    bits = int(header.get("BitsStored") or allocated)
    low, *rest = sorted(_as_stored(end, allocated, is_signed) for end in ends if isinstance(end, int))
    high = rest[0] if rest else low
    least = -(1 << bits - 1) if is_signed else 0
    if not least <= low <= high < least + (1 << bits):
        return None
    values = sorted(end * slope + intercept for end in (low, high))
    return None if values[0] <= 0 <= values[1] else Padding(low, high)


def _as_stored(value: int, bits: int, is_signed: bool) -> int:
    """What the same bits are as a voxel."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if is_signed and value >> bits - 1 else value


@dataclass(frozen=True)
class Found:
    """What one pass over a series found: voxels that are padding, and the lowest value of all others."""

    count: int
    lowest: Any
    """None where there is no other voxel."""


def find_lowest(slices: Iterable[tuple[Array, npt.NDArray[np.bool_] | None]], is_falling: bool) -> Found:
    """Look at each slice, with the mask of its padding where it states one.

    Parameters
    ----------
    is_falling : bool
        Whether values fall as stored values rise, so that the highest stored one is the lowest value.
    """
    count, ends = 0, []
    for values, mask in slices:
        kept = values if mask is None else values[~mask]
        count += values.size - kept.size
        if kept.size:
            ends.append(kept.max() if is_falling else kept.min())
    lowest = None if not ends else max(ends) if is_falling else min(ends)
    return Found(count, lowest)
