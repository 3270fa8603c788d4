"""One worker process for each GPU of this machine, through dask-cuda."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dask.system import CPU_COUNT
from distributed import Client

from voxelmill.basics.errors import ConfigError
from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.runtime.cluster.dask_settings import introduce
from voxelmill.runtime.cluster.workers_here import (
    dashboard_port,
    scratch,
    starting,
    uninterrupted,
    without_main,
)

MOST_THREADS = 8
"""Most threads of a worker: they read and compress while its GPU computes for one of them."""


@contextmanager
def start_on_gpus() -> Iterator[Client]:
    """Yield a client of one worker process per GPU; the workers divide the cores among them.

    Raises
    ------
    ConfigError
        If dask-cuda is not installed, or finds no GPU.
    """
    try:
        from dask_cuda import LocalCUDACluster
        from dask_cuda.utils import get_n_gpus
    except ImportError:
        raise ConfigError(
            "--cluster cuda needs dask-cuda and CuPy: pip install dask-cuda cupy-cuda13x."
        ) from None
    gpus = _count(get_n_gpus)
    if gpus == 0:
        raise ConfigError("--cluster cuda: no GPU is found here. Use --cluster local, or a machine with one.")
    threads = max(1, min(MOST_THREADS, CPU_COUNT // gpus))
    with scratch() as folder:
        with starting("workers on GPUs"), uninterrupted(), without_main():
            cluster = LocalCUDACluster(
                n_workers=gpus,
                threads_per_worker=threads,
                resources={"GPU": threads},  # `kernels.backend` lets one thread compute at a time
                memory_limit=0,  # tasks keep to their own budget, see `memory_budget`
                data=dict,  # results are small, so nothing is spilled from a GPU
                host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{dashboard_port()}",
                silence_logs=logging.CRITICAL,
                local_directory=folder,
                preload=["voxelmill.worker"],
                preload_nanny=["voxelmill.nanny"],
            )
        with cluster, Client(cluster) as client:
            introduce(client)
            yield client


def _count(get_n_gpus: Callable[[], int]) -> int:
    """Return the number of GPUs; 0 if NVIDIA's library finds no driver, for which it has its own errors."""
    try:
        return int(get_n_gpus())
    except Exception as error:
        if is_own_fault(error):
            raise
        return 0
