"""Numba, loaded and compiled on first use only, so that importing voxelmill stays quick.

In: a plain function over arrays. Out: the same function, compiled without the GIL and cached on disk.
A compiled function cannot call another one through this wrapper; kernels are self-contained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` with Numba when it is first called."""

    @functools.cache
    def build() -> Callable[P, R]:
        import numba

        return cast(Callable[P, R], numba.njit(nogil=True, cache=True)(function))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return build()(*args, **kwargs)

    return call
