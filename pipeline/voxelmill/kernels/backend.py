"""Which array library an array belongs to; the only file that may import CuPy."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""A NumPy or a CuPy array."""


def get_array_module(array: Array) -> ModuleType:
    """NumPy, or CuPy where `array` is a CuPy array."""
    if isinstance(array, np.ndarray):
        return np
    cupy = sys.modules.get("cupy")  # an array of CuPy's cannot exist before CuPy was imported
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy
    raise TypeError(f"{type(array).__name__} is not an array; a NumPy or CuPy array is needed")


def asnumpy(array: Array) -> np.ndarray[Any, Any]:
    """The array in host memory; a NumPy array is returned as it is."""
    return np.asarray(array) if get_array_module(array) is np else array.get()


def fill_holes_gpu(mask: Array) -> Array:
    """CuPy's ``binary_fill_holes`` of a CuPy array."""
    from cupyx.scipy import ndimage

    return ndimage.binary_fill_holes(mask != 0)
