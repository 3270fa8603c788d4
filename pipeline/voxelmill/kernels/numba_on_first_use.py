"""Lazy use of Numba: it is loaded, and kernels are compiled, on first use, so importing voxelmill stays fast.

In: a plain function over arrays. Out: the same function, compiled to run without the GIL and cached on disk.
A compiled function cannot call another one through this wrapper, so kernels are self-contained.

The cache is Numba's own: beside the installed package, else in the user's cache folder, or in
NUMBA_CACHE_DIR. If none of these can be written, each process compiles for some seconds. A folder in a shared
/tmp would be unsafe, because Numba unpickles the files it finds.
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
        except OSError:  # from the cache, before anything is computed: a kernel itself opens no file
            say_no_cache()
            return build(False)(*args, **kwargs)

    return call


def compile_now(function: Callable[..., Any], signature: Any, **options: Any) -> Any:
    """Compile `function` now for one signature, with options of ``numba.njit``."""
    try:
        return _compile(function, signature, True, options)
    except OSError:  # from the cache: its disk is full, or its files belong to another user
        say_no_cache()
        return _compile(function, signature, False, options)


def check_compiler() -> None:
    """Refuse to begin without compiled kernels: pure Python would take hours, and its integers do not wrap.

    Raises
    ------
    ConfigError
        If NUMBA_DISABLE_JIT is set.
    """
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ConfigError("NUMBA_DISABLE_JIT is set, and kernels have to be compiled. Unset it.")


def _compile(function: Callable[..., Any], signature: Any, cache: bool, options: dict[str, Any]) -> Any:
    """Compile a function; without a cache if no folder for one can be written."""
    check_compiler()
    ensure_home()  # without HOME, Numba would make a folder named ~ in the working directory
    import numba

    kernel = numba.njit(nogil=True, **options)(function)
    if cache:
        try:
            kernel.enable_caching()
        except RuntimeError:  # Numba found no writable folder
            say_no_cache()
    if signature is not None:
        kernel.compile(signature)
    return kernel


@functools.cache
def say_no_cache() -> None:
    """Warn once per process; `runtime.cluster.dask_settings` shows the warning of one worker only."""
    logger.warning(NO_CACHE)
