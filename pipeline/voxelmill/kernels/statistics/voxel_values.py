"""The values of voxels, and 32-bit keys with the same order.

In: stored values of any real type. Out: float32 values, or unsigned keys that sort like the values.
`rescale` is the only definition of "value" in voxelmill. This module knows no files, boxes or statistics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import ValueRuleError

Float32 = npt.NDArray[np.float32]
UInt32 = npt.NDArray[np.uint32]

SIGN = np.uint32(0x80000000)
ZERO_KEY = int(SIGN)
FIRST_FINITE_KEY = 0x00800000  # key of the lowest finite float32
LAST_FINITE_KEY = 0xFF7FFFFF  # key of the highest finite float32


def rescale(stored: npt.NDArray[Any], slope: float = 1.0, intercept: float = 0.0) -> Float32:
    """Return the values of stored voxels: ``float32(stored * slope + intercept)``, computed in float64.

    With slope 1 and intercept 0 the stored values are converted to float32 directly.

    Parameters
    ----------
    stored : array, any shape and real type
        NumPy or CuPy; never changed and never returned.
    slope, intercept : float
        One pair for the whole array.

    Returns
    -------
    float32 array of the same shape
        Values beyond float32 become infinite. Besides it, one (y, x) plane of float64 is held.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        out = stored.astype(np.float32)
        if slope != 1 or intercept != 0:
            for plane in np.ndindex(stored.shape[:-2]):
                out[plane] = stored[plane].astype(np.float64) * slope + intercept
    return out


def check_rescale(dtype: npt.DTypeLike, slope: float, intercept: float) -> None:
    """Refuse types that hold no real numbers, and a rescaling that is not finite or maps all values to one.

    Raises
    ------
    ValueRuleError
        If the type is not real, the slope is 0, or slope, intercept or a rescaled value is not finite.
    """
    if np.dtype(dtype).kind not in "biuf":
        raise ValueRuleError(f"voxels are {np.dtype(dtype)}; real numbers are needed. Convert the image.")
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise ValueRuleError(
            f"slope {slope} and intercept {intercept} do not rescale; a finite slope other than 0 and a "
            "finite intercept are needed. Mend the header."
        )
    if is_narrow(dtype) and not np.isfinite(rescale(_extremes(dtype), slope, intercept)).all():
        raise ValueRuleError(
            f"slope {slope} and intercept {intercept} take {np.dtype(dtype)} beyond float32. Mend the header."
        )


def is_narrow(dtype: npt.DTypeLike) -> bool:
    """Return whether a type is an integer of at most 16 bits: its histogram has one bin per stored value."""
    dtype = np.dtype(dtype)
    return dtype.kind in "biu" and dtype.itemsize <= 2


def _extremes(dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.array([0, 1])
    return np.array([np.iinfo(dtype).min, np.iinfo(dtype).max])


def keys_of(values: Float32) -> UInt32:
    """Return unsigned keys in the order of float32 `values`; -0.0 gets the key of 0.0.

    For positive numbers the sign bit is set, for negative ones all bits are flipped (Herf, "Radix tricks",
    2001). Non-finite values get keys outside ``FIRST_FINITE_KEY..LAST_FINITE_KEY``.
    """
    bits = (values + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    negative = (bits.view(np.int32) >> 31).view(np.uint32)  # all ones where the sign is set
    bits ^= negative | SIGN
    return bits


def values_of(keys: npt.NDArray[np.unsignedinteger[Any]]) -> Float32:
    """Return the float32 values of keys; the inverse of `keys_of`."""
    keys = keys.astype(np.uint32)
    negative = (keys.view(np.int32) >> 31).view(np.uint32)  # all ones where the value is positive
    keys ^= ~negative | SIGN
    return keys.view(np.float32)
