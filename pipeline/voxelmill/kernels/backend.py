"""Which array library an array belongs to, and on which device a task computes; alone may import CuPy."""

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
"""Threads of a worker read and compress at a time, and compute on its GPU one after the other."""


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


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Choose "cpu" or "gpu" for what `compute` does meanwhile, in this thread."""
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)


def compute(function: Callable[..., Array], *arrays: Array | None) -> np.ndarray[Any, Any]:
    """Call a function of NumPy or CuPy arrays on the chosen device; what it returns comes to host memory.

    A GPU that is not there, or has no memory left, is no reason to fail: then the CPU computes, this once.
    On a GPU the function works on copies, so it may change its arrays.
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
    """CuPy where it is installed and sees a GPU; otherwise that is said once."""
    try:
        cupy = import_module("cupy")
        cupy.zeros(1)
        return cupy
    except Exception as error:  # without a driver each library on the way has an error of its own
        if is_own_fault(error) and not isinstance(error, ImportError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("this worker was given tasks for a GPU, but has none (%s): its CPU computes", reason)
        return None


def fill_holes_gpu(mask: Array) -> Array:
    """CuPy's ``binary_fill_holes`` of a CuPy array."""
    from cupyx.scipy import ndimage

    return ndimage.binary_fill_holes(mask != 0)
