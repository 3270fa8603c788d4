"""The engine that runs tasks on a cluster, for as long as OUT is held and workers come.

In: a client, settings and the lease of OUT. Out: an `Engine`. Knows no stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxelmill.config.settings import Config
from voxelmill.runtime.cluster.batch_queues import pending_jobs
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.same_versions import Versions
from voxelmill.runtime.stage_engine import Device, Engine
from voxelmill.runtime.task_window import Watch
from voxelmill.storage.lease import Lease

if TYPE_CHECKING:
    from distributed import Client


NO_WORKER_TIMEOUT = 300.0


"""Seconds without any worker after which nothing is expected any more."""


def make_engine(
    client: Client | None,
    config: Config,
    lease: Lease | None,
    reporter: Reporter,
    device: Device = "auto",
    worker_threads: int = 1,
) -> Engine:
    """An engine that gives up when OUT is lost, or when there is no worker for as long as the settings say.

    Unless they do, time in which jobs wait in the queue of a batch system does not count.
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
