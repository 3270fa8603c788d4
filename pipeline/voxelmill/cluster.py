"""Where graphs run: this process, a local Dask cluster, or a cluster that is running already.

In: words from the command line. Out: a Dask client, or None for the synchronous scheduler. One task at a
time runs in a worker process, on one core; BLAS gets one thread.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from types import ModuleType

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_limits

from voxelmill.errors import ConfigError

logger = logging.getLogger("voxelmill")

CLUSTERS = ("local", "none")

SETTINGS = {
    # Tasks keep to the memory they planned; spilling or pausing would only hide that they do not.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # Memory of up to 2 MiB is used again instead of being asked for anew, piece by piece: a quarter of the
    # time of a shard. Larger arrays are given back at once.
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 8 * 2**20,
    # A worker would keep an hour of profiles: half a megabyte for each case, seen on small ones.
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": 2,
    # A worker is handed one task at a time: when it dies, no other task is held to be the cause.
    "distributed.scheduler.worker-saturation": 1.0,
    # A task of ours may hold a core, and now and then the event loop's lock, for seconds.
    "distributed.admin.tick.limit": "60s",
    "distributed.scheduler.worker-ttl": None,
    # Workers that die are restarted by their nannies; a cluster that finds one amid that after 15 s would
    # dismiss the nanny, and after some deaths nobody would be left.
    "distributed.deploy.lost-worker-timeout": "1000 days",
}


@contextmanager
def connect(
    cluster: str = "local", workers: int | None = None, scheduler: str | None = None
) -> Iterator[Client | None]:
    """A client to run stages on, closed afterwards together with what was started for it.

    Parameters
    ----------
    cluster : str
        "local" starts worker processes on this machine; "none" runs everything in this process.
    workers : int, optional
        Worker processes of a local cluster, by default one a core.
    scheduler : str, optional
        Address or scheduler file of a running cluster, which is used instead.

    Raises
    ------
    ConfigError
        If the words make no sense or no scheduler answers.
    """
    if cluster not in CLUSTERS:
        raise ConfigError(f"--cluster {cluster!r} is unknown; choose one of {', '.join(CLUSTERS)}.")
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is {workers}; at least 1 is needed.")
    if scheduler is not None:
        with dask.config.set(SETTINGS), _join(scheduler) as client:
            yield client
    elif cluster == "none":
        with threadpool_limits(1):
            yield None
    else:
        with dask.config.set(SETTINGS), _start_local(workers or CPU_COUNT) as client:
            yield client


@contextmanager
def _start_local(workers: int) -> Iterator[Client]:
    # Processes, not threads: a crash in a native library costs one worker, and Python code of one task
    # never waits for another's. Measured: 0.6 s more until the first task of two workers starts.
    with _uninterrupted(), _without_main():
        local = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{_dashboard_port()}",
            worker_dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            preload="voxelmill.worker",
        )
    with local, Client(local) as client:
        _introduce(client)
        yield client


def _dashboard_port() -> int:
    """8787 where it is free; any other, where it is not: Dask would warn, and leave a socket open."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8787))
        except OSError:
            return 0
        return 8787


def _introduce(client: Client) -> None:
    logger.info("dashboard: %s", client.dashboard_link)
    client.forward_logging("voxelmill", logging.INFO)  # what tasks have to say comes out here


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits, here and in processes that are started meanwhile, until they decide otherwise."""
    resource_tracker.ensure_running()  # it would be started within, and unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that are started meanwhile do not import the program's main module.

    Tasks need nothing from it, and a script that calls `voxelmill.run` at its top level would start
    itself again in every worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _join(scheduler: str) -> Iterator[Client]:
    address = _address_in(Path(scheduler)) if scheduler.endswith(".json") else scheduler
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--scheduler {scheduler}: no scheduler answers ({reason}).") from None
    with client:
        _introduce(client)
        yield client


def _address_in(file: Path) -> str:
    """The address in a scheduler file."""
    try:
        return str(json.loads(file.read_text())["address"])
    except OSError:
        raise ConfigError(f"--scheduler {file}: no such scheduler file. Start the scheduler first.") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"--scheduler {file}: is no scheduler file, which is JSON with an address."
        ) from None
