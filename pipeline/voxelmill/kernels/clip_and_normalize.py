"""Intensity normalisation with nnU-Net's schemes, in float32, on any block of a channel.

In: a float32 block of rescaled values, NumPy or CuPy, and parameters from the plan. Out: the same block,
changed in place. This module maps channel names to schemes; it knows no files and no fingerprint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import ValueRuleError

SCHEMES = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
EPSILON = 1e-8  # smallest divisor


@dataclass(frozen=True)
class Normalization:
    """One channel's normalisation: ``(clip(value, lower, upper) - shift) / scale``, in float32.

    Attributes
    ----------
    scheme : str
        nnU-Net's name, such as "ZScoreNormalization".
    shift, scale : float
        In units of the rescaled values; the scale is positive.
    lower, upper : float, optional
        Bounds of the clip, both or neither.
    """

    scheme: str = "NoNormalization"
    shift: float = 0.0
    scale: float = 1.0
    lower: float | None = None
    upper: float | None = None

    def apply(self, block: Any, mask: Any = None) -> Any:
        """Normalise a float32 block in place.

        Parameters
        ----------
        block : float32 array, NumPy or CuPy
            Any shape; with a mask, at least two axes.
        mask : bool array of the block's shape, optional
            Voxels outside it keep their raw value.

        Returns
        -------
        array
            The block.

        Raises
        ------
        ValueError
            If the block is not float32.
        """
        if block.dtype != np.float32:
            raise ValueError(f"block is {block.dtype}; normalisation works on float32 in place")
        if mask is not None:
            for part, inside in zip(block, mask, strict=True):  # by slices: masked indexing makes copies
                part[inside] = self.apply(part[inside])
            return block
        if self.lower is not None:
            block.clip(np.float32(self.lower), np.float32(self.upper), out=block)
        if self.shift != 0:
            block -= np.float32(self.shift)
        if self.scale != 1:
            block /= np.float32(self.scale)
        return block

    def apply_range(
        self, low: npt.ArrayLike, high: npt.ArrayLike, outside: npt.ArrayLike = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the exact range of the normalised values; it is exact because every step is monotone.

        Parameters
        ----------
        low, high : scalars or arrays
            Range of the raw values; with a mask, of those inside it (+inf and -inf if it is empty).
        outside : bool or bool array
            Whether voxels outside the mask keep their raw zero, which widens the range.

        Returns
        -------
        low, high : float32 arrays
        """
        low, high = (self.apply(np.array(v, np.float32, ndmin=1)).reshape(np.shape(v)) for v in (low, high))
        zero = np.float32(0)
        return np.where(outside, np.minimum(low, zero), low), np.where(outside, np.maximum(high, zero), high)


def scheme_of(channel: str) -> str:
    """Return nnU-Net's scheme for a channel name, ignoring case; z-score for unknown names."""
    return SCHEMES.get(channel.casefold(), "ZScoreNormalization")


def ct(mean: float, std: float, percentile_00_5: float, percentile_99_5: float) -> Normalization:
    """Clip to the percentiles of the dataset's foreground, then subtract its mean and divide by its std."""
    return Normalization("CTNormalization", mean, max(std, EPSILON), percentile_00_5, percentile_99_5)


def zscore(count: int, total: float, squares: float) -> Normalization:
    """Normalise by mean and standard deviation, from the number, sum and sum of squares of the voxels.

    Zeros add nothing to the sums, so the sums of the non-zero voxels serve for the crop box and for the mask;
    only `count`, the number of voxels in the box or the mask, differs.
    """
    mean = total / max(count, 1)
    variance = max(squares / max(count, 1) - mean**2, 0.0)
    return Normalization("ZScoreNormalization", mean, max(math.sqrt(variance), EPSILON))


def rescale_to_01(low: float, high: float) -> Normalization:
    """Map the range `low` to `high` of the crop to 0..1."""
    width = float(np.float32(high) - np.float32(low))
    return Normalization("RescaleTo01Normalization", low, max(width, EPSILON))


def rgb_to_01(low: float, high: float) -> Normalization:
    """Map 0..255 to 0..1.

    Raises
    ------
    ValueRuleError
        If the range `low` to `high` exceeds 0..255.
    """
    if low < 0 or high > 255:
        raise ValueRuleError(
            f"an rgb_to_0_1 channel holds values from {low:g} to {high:g}; 0 to 255 is needed. "
            "Choose another scheme with `channels`."
        )
    return Normalization("RGBTo01Normalization", 0.0, 255.0)
