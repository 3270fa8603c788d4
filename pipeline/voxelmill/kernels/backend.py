"""The array library of an array, and the device that a task computes on. Only this module imports CuPy."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from voxelmill.basics.safe_tracebacks import is_own_fault

logger = logging.getLogger("voxelmill")

Array = Any
"""A NumPy or a CuPy array."""

_device: ContextVar[str] = ContextVar("device", default="cpu")
_gpu = threading.Lock()
"""Lets one thread of a worker compute on the GPU at a time; reading and compressing stay parallel."""


def get_array_module(array: Array) -> ModuleType:
    """Return the module `numpy` or `cupy`, whichever `array` belongs to.

    Raises
    ------
    TypeError
        If `array` is neither a NumPy nor a CuPy array.
    """
    if isinstance(array, np.ndarray):
        return np
    cupy = sys.modules.get("cupy")  # a CuPy array cannot exist before CuPy is imported
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy
    raise TypeError(f"{type(array).__name__} is not an array; a NumPy or CuPy array is needed")


def asnumpy(array: Array) -> np.ndarray[Any, Any]:
    """Return the array in host memory; a NumPy array is returned unchanged."""
    return np.asarray(array) if get_array_module(array) is np else array.get()


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Select "cpu" or "gpu" for `compute` in this thread."""
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)


def compute(function: Callable[..., Array], *arrays: Array | None) -> np.ndarray[Any, Any]:
    """Call a function of NumPy or CuPy arrays on the selected device and return the result in host memory.

    If the GPU is missing, fails or runs out of memory, the CPU computes this call instead. On the GPU the
    function works on copies, so it may change its arrays.
    """
    if _device.get() == "gpu" and (cupy := _usable_cupy()) is not None:
        try:
            with _gpu:
                return asnumpy(function(*(a if a is None else cupy.asarray(a) for a in arrays)))
        except (cupy.cuda.memory.OutOfMemoryError, cupy.cuda.runtime.CUDARuntimeError) as error:
            logger.warning("the GPU failed (%s): the CPU computes instead", str(error).splitlines()[0])
    return asnumpy(function(*arrays))


@cache
def _usable_cupy() -> ModuleType | None:
    """Return CuPy if it is installed and finds a GPU; otherwise log a warning, once per process."""
    try:
        cupy = import_module("cupy")
        cupy.zeros(1)
        return cupy
    except Exception as error:  # without a driver, each library below CuPy raises its own kind of error
        if is_own_fault(error) and not isinstance(error, ImportError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("this worker was given tasks for a GPU, but has none (%s): its CPU computes", reason)
        return None


def fill_holes_gpu(mask: Array) -> Array:
    """Apply CuPy's ``binary_fill_holes`` to a CuPy array."""
    from cupyx.scipy import ndimage

    return ndimage.binary_fill_holes(mask != 0)
