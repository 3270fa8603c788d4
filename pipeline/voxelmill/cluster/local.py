"""Worker processes on this machine."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import ModuleType

from distributed import Client, LocalCluster

from voxelmill.cluster.settings import introduce


@contextmanager
def start_local(workers: int) -> Iterator[Client]:
    """Worker processes on this machine, reachable from nowhere else."""
    # Processes, not threads: a crash in a native library costs one worker, and Python code of one task
    # never waits for another's. Measured: 0.6 s more until the first task of two workers starts.
    with uninterrupted(), without_main(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Port .* is already in use")  # since `dashboard_port` looked
        local = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{dashboard_port()}",
            worker_dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            preload="voxelmill.worker",
            preload_nanny="voxelmill.nanny",
        )
    with local, Client(local) as client:
        introduce(client)
        yield client


def dashboard_port() -> int:
    """8787 where it is free; any other, where it is not: Dask would warn, and leave a socket open."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8787))
        except OSError:
            return 0
        return 8787


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits, here and in processes that are started meanwhile, until they decide otherwise."""
    resource_tracker.ensure_running()  # it would be started within, and unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_main() -> Iterator[None]:
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
