"""Numba, loaded and compiled on first use only, so that importing voxelmill stays quick.

In: a plain function over arrays. Out: the same function, compiled without the GIL and cached on disk.
A compiled function cannot call another one through this wrapper; kernels are self-contained.

The cache is Numba's: beside the installed package, else in the user's cache folder, or where NUMBA_CACHE_DIR
says. Where none of them can be written there is none, and each process compiles for some seconds. A folder in
a shared /tmp is no way out: Numba unpickles what it finds.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from voxelmill.basics.errors import ConfigError
from voxelmill.basics.process_limits import ensure_home

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("voxelmill")

NO_CACHE = (
    "compiled kernels cannot be kept on this machine: each process compiles them anew, for some seconds. "
    "Let NUMBA_CACHE_DIR name a folder of yours that can be written."
)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` with Numba when it is first called."""

    @functools.cache
    def build(cache: bool) -> Callable[P, R]:
        return cast(Callable[P, R], _compile(function, None, cache, {}))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return build(True)(*args, **kwargs)
        except OSError:  # of the cache, before anything is computed: a kernel touches no file
            say_no_cache()
            return build(False)(*args, **kwargs)

    return call


def compile_now(function: Callable[..., Any], signature: Any, **options: Any) -> Any:
    """`function`, compiled for one signature with some of Numba's options."""
    try:
        return _compile(function, signature, True, options)
    except OSError:  # of the cache: its disk is full, or its files are another user's
        say_no_cache()
        return _compile(function, signature, False, options)


def check_compiler() -> None:
    """Refuse to begin without compiled kernels: pure Python would need hours, and its integers do not wrap.

    Raises
    ------
    ConfigError
        If Numba is told not to compile.
    """
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ConfigError("NUMBA_DISABLE_JIT is set, and kernels have to be compiled. Unset it.")


def _compile(function: Callable[..., Any], signature: Any, cache: bool, options: dict[str, Any]) -> Any:
    """A compiled function; without a cache where there is no folder for one."""
    check_compiler()
    ensure_home()  # without one, Numba would make a folder called ~ where the process runs
    import numba

    kernel = numba.njit(nogil=True, **options)(function)
    if cache:
        try:
            kernel.enable_caching()
        except RuntimeError:  # no folder can be written
            say_no_cache()
    if signature is not None:
        kernel.compile(signature)
    return kernel


@functools.cache
def say_no_cache() -> None:
    """Once for each process; of several workers `cluster.settings` lets one be heard."""
    logger.warning(NO_CACHE)
