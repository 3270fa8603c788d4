"""The engine that runs tasks while the lease on OUT holds and the cluster has workers.

In: a client, settings and the lease on OUT. Out: an `Engine`. Knows no stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxelmill.config.settings import Config
from voxelmill.runtime.cluster.batch_queues import pending_jobs
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.same_versions import Versions
from voxelmill.runtime.stage_engine import Device, Engine
from voxelmill.runtime.workers_present import Watch
from voxelmill.storage.lease import Lease

if TYPE_CHECKING:
    from distributed import Client


NO_WORKER_TIMEOUT = 300.0
"""Seconds without a worker after which a run gives up, unless the settings state another time."""


def make_engine(
    client: Client | None,
    config: Config,
    lease: Lease | None,
    reporter: Reporter,
    device: Device = "auto",
    worker_threads: int = 1,
) -> Engine:
    """Return an engine that gives up when the lease on OUT is lost, or after too long without a worker.

    Parameters
    ----------
    client : distributed.Client or None
        None runs tasks in this process.
    config : Config
        If `no_worker_timeout` is None, `NO_WORKER_TIMEOUT` holds, and time that jobs spend in the queue of a
        batch system does not count.
    lease : Lease or None
        The lease on OUT, checked while tasks run.
    reporter : Reporter
        Shows progress.
    device : {"auto", "cpu", "gpu"}
        "gpu" waits for workers with a GPU.
    worker_threads : int
        Threads of a worker to assume before the first worker has connected.
    """
    timeout = config.no_worker_timeout
    watch = Watch(
        no_worker_timeout=NO_WORKER_TIMEOUT if timeout is None else timeout,
        pending=lambda: pending_jobs(client) if timeout is None else 0,
        check=lambda: lease.check() if lease is not None else None,
        needs_gpu=device == "gpu",
        newcomers=(lambda _: None) if client is None else Versions(client).worker_differs,
    )
    return Engine(client, reporter, device, watch, worker_threads)
