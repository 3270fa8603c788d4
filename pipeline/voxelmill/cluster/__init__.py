"""Where graphs run: this process, workers on this machine, jobs of a batch system, a running cluster.

In: words from the command line. Out: a Dask client, or None for the synchronous scheduler. One task at a time
runs in a thread of a worker, on one core; BLAS gets one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import dask
from dask.system import CPU_COUNT
from distributed import Client
from threadpoolctl import threadpool_limits

from voxelmill.cluster.gpus import start_on_gpus
from voxelmill.cluster.join import join
from voxelmill.cluster.local import start_local
from voxelmill.cluster.queues import SYSTEMS, Jobs, pending_jobs, start_jobs
from voxelmill.cluster.settings import dask_settings
from voxelmill.config import ClusterConfig
from voxelmill.errors import ConfigError

__all__ = ["CLUSTERS", "SYSTEMS", "Jobs", "check_words", "connect", "pending_jobs"]

CLUSTERS = ("local", *SYSTEMS, "cuda", "none")


def check_words(cluster: str, workers: int | None) -> None:
    """Refuse words that make no sense.

    Raises
    ------
    ConfigError
        With what may be said instead.
    """
    if cluster not in CLUSTERS:
        raise ConfigError(f"--cluster {cluster!r} is unknown; choose one of {', '.join(CLUSTERS)}.")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}; at least 1 is needed.")


@contextmanager
def connect(
    cluster: str = "local",
    workers: int | None = None,
    scheduler: str | None = None,
    jobs: Jobs | None = None,
) -> Iterator[Client | None]:
    """A client to run stages on, closed afterwards together with what was started for it.

    Parameters
    ----------
    cluster : str
        "local" starts worker processes on this machine; "none" runs everything in this process; "slurm",
        "pbs", "lsf" and "sge" submit jobs; "cuda" starts a worker for each GPU of this machine.
    workers : int, optional
        Worker processes; by default one a core of this machine, or one job.
    scheduler : str, optional
        Address or scheduler file of a running cluster, which is used instead.
    jobs : Jobs, optional
        What jobs of a batch system are asked for.

    Raises
    ------
    ConfigError
        If the words make no sense, a package is missing, or no scheduler answers.
    """
    check_words(cluster, workers)
    if cluster == "none" and scheduler is None:
        with threadpool_limits(1):
            yield None
        return
    with dask.config.set(dask_settings()), _open(cluster, workers, scheduler, jobs) as client:
        yield client


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
