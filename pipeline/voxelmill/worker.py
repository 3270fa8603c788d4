"""Preload script of the worker processes; Dask calls `dask_setup` by name.

It imports the modules that tasks need before the first task arrives, and ignores Ctrl-C: a terminal sends it
to all processes, and only the one that started the cluster handles it.
"""

import gc
import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Prepare the worker; Dask calls this once in its main thread, before the first task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import voxelmill.runs.job  # noqa: F401

    gc.collect()
    gc.freeze()  # skip loaded modules: a collection after each task then takes 0.1 ms instead of 30 ms
