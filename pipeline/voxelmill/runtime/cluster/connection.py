"""Connection to each kind of cluster: a Dask client, or None for the synchronous scheduler.

In: the kind of cluster and the number of workers. Out: a client. Each thread of a worker runs one task at a
time on one core, and BLAS has one thread. What this machine cannot do is refused before anything starts.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from numbers import Integral
from pathlib import Path

import dask
from dask.system import CPU_COUNT
from distributed import Client
from threadpoolctl import threadpool_limits

from voxelmill.basics.errors import ConfigError
from voxelmill.basics.process_limits import check_address_space, ensure_home, open_files
from voxelmill.config.settings import ClusterConfig
from voxelmill.kernels.numba_on_first_use import check_compiler
from voxelmill.runtime.cluster.batch_queues import SYSTEMS, Jobs, start_jobs
from voxelmill.runtime.cluster.dask_settings import dask_settings, introduce, one_voice
from voxelmill.runtime.cluster.running_scheduler import join
from voxelmill.runtime.cluster.workers_here import start_local
from voxelmill.runtime.cluster.workers_on_gpus import start_on_gpus

CLUSTERS = ("local", *SYSTEMS, "cuda", "none")


def check_words(cluster: str, workers: int | None) -> None:
    """Refuse an unknown cluster, or a number of workers that is not a positive integer.

    Raises
    ------
    ConfigError
        The message names the valid values.
    """
    if cluster not in CLUSTERS:
        raise ConfigError(f"--cluster {cluster!r} is unknown; choose one of {', '.join(CLUSTERS)}.")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, Integral)):
        raise ConfigError(f"--workers is {workers!r}; a whole number is needed, at least 1.")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}; at least 1 is needed.")


@contextmanager
def connect(
    cluster: str = "local",
    workers: int | None = None,
    scheduler: str | None = None,
    jobs: Jobs | None = None,
) -> Iterator[Client | None]:
    """Yield a client to run stages on; afterwards close it and everything that was started for it.

    Parameters
    ----------
    cluster : str
        "local" starts worker processes on this machine; "none" runs everything in this process; "slurm",
        "pbs", "lsf" and "sge" submit jobs; "cuda" starts a worker for each GPU of this machine.
    workers : int, optional
        Number of worker processes; by default one per core of this machine, or those of one job.
    scheduler : str, optional
        Address or scheduler file of a running cluster, which replaces `cluster`.
    jobs : Jobs, optional
        The jobs to request from a batch system.

    Yields
    ------
    distributed.Client or None
        None for "none".

    Raises
    ------
    ConfigError
        If a value is unknown, a package is missing, or no scheduler answers.
    """
    check_words(cluster, workers)
    here = 0 if scheduler is not None or cluster in ("none", *SYSTEMS) else workers or CPU_COUNT
    _check_machine(here)
    if cluster == "none" and scheduler is None:
        with threadpool_limits(1):
            yield None
        return
    with one_voice(), dask.config.set(dask_settings()), _open(cluster, workers, scheduler, jobs) as client:
        yield client


@contextmanager
def borrow(client: Client) -> Iterator[Client]:
    """Yield the caller's own client, and leave it open.

    Raises
    ------
    ConfigError
        If the client is asynchronous or not connected, or its cluster has other versions.
    """
    if client.asynchronous:
        raise ConfigError("client is an asynchronous one. Pass one that is not, or scheduler=ADDRESS.")
    if client.status != "running":
        raise ConfigError(f"client is {client.status}. Pass one that is connected to a scheduler.")
    check_compiler()
    with one_voice():
        introduce(client)
        yield client


def _check_machine(workers: int) -> None:
    """Refuse what cannot work on this machine, before anything starts."""
    ensure_home()
    check_compiler()
    check_address_space(workers)
    open_files(workers)
    if workers and multiprocessing.current_process().daemon:
        raise ConfigError(
            "this process is daemonic, as in a multiprocessing pool or a Dask worker, and may start no "
            "workers. Pass cluster='none', which works in it alone."
        )


def _open(
    cluster: str, workers: int | None, scheduler: str | None, jobs: Jobs | None
) -> AbstractContextManager[Client]:
    if scheduler is not None:
        return join(scheduler)
    if cluster == "cuda":
        return start_on_gpus()
    if cluster in SYSTEMS:
        return start_jobs(jobs or Jobs(cluster, ClusterConfig(), workers, Path("logs")))
    return start_local(workers or CPU_COUNT)
