"""The padding voxels of a DICOM series, and the lowest value of all other voxels.

In: a header, or decoded slices. Out: a range of stored values, masks, and the lowest value outside them.

PixelPaddingValue (0028,0120) is in stored units; with PixelPaddingRangeLimit (0028,0121) it is one end of a
range. Its sign should follow PixelRepresentation, but programs write either: 63536 stands for -2000 if voxels
are signed with 16 bits, and the reverse. The value is therefore compared as a bit pattern.
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
    """The range of stored values that mark padding: `low` to `high`, both included."""

    low: int
    high: int

    def mask(self, stored: Array) -> npt.NDArray[np.bool_]:
        """Return the mask of padding voxels, in the shape of `stored`."""
        if self.low == self.high:
            return np.asarray(stored == self.low)
        return np.asarray((stored >= self.low) & (stored <= self.high))

    def words(self, slope: float, intercept: float) -> str:
        """Return the stored and the rescaled range as text for notes."""
        ends = sorted({self.low, self.high})
        values = sorted(end * slope + intercept for end in ends)
        stated, means = " to ".join(map(str, ends)), " to ".join(f"{value:g}" for value in values)
        return f"PixelPaddingValue {stated} ({means} once rescaled)"


def stated_padding(header: Any, slope: float, intercept: float) -> Padding | None:
    """Return the padding range that a header states.

    It is None if no padding is stated, if BitsStored bits cannot hold it, or if it contains 0 after
    rescaling: such padding is background already, and the crop to non-zero voxels depends on it.
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
    """Reinterpret the low `bits` bits of a value as a stored voxel."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if is_signed and value >> bits - 1 else value


@dataclass(frozen=True)
class Found:
    """The result of a pass over a series: the number of padding voxels, and the lowest other value."""

    count: int
    lowest: Any
    """In units of the values passed; None if every voxel is padding."""


def find_lowest(slices: Iterable[tuple[Array, npt.NDArray[np.bool_] | None]], is_falling: bool) -> Found:
    """Count the padding voxels of all slices, and find the lowest value of the others.

    Parameters
    ----------
    slices : iterable of (array, mask)
        Values and padding mask of each slice; the mask is None if the slice states no padding.
    is_falling : bool
        Whether the slope is negative, so that the highest stored value is the lowest value.
    """
    count, ends = 0, []
    for values, mask in slices:
        kept = values if mask is None else values[~mask]
        count += values.size - kept.size
        if kept.size:
            ends.append(kept.max() if is_falling else kept.min())
    lowest = None if not ends else max(ends) if is_falling else min(ends)
    return Found(count, lowest)
