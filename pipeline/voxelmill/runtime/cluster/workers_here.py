"""Worker processes on this machine, and what every local start needs: a folder, a port, one-line errors."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import dask
from distributed import Client, LocalCluster

from voxelmill.basics.errors import ClusterLostError, ConfigError
from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.runtime.cluster.dask_settings import introduce

_DIED = "Nanny failed to start worker process"
"""Dask's only message when a worker process ends by itself while it starts."""


@contextmanager
def start_local(workers: int) -> Iterator[Client]:
    """Yield a client of worker processes on this machine; they listen on 127.0.0.1 only.

    Raises
    ------
    ConfigError
        If Dask cannot start them.
    ClusterLostError
        If a process ends while it starts.
    """
    # Processes, not threads: a crash in a native library costs one worker, and the Python code of a task
    # never waits for another task. Measured cost: the first task of two workers starts 0.6 s later.
    with scratch() as folder:
        with starting("workers"), uninterrupted(), without_main(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Port .* is already in use")  # taken after `dashboard_port`
            # Raises here if there is no such method: Dask 2025 (.1 and .12 were tried) would wait for ever.
            get_context(dask.config.get("distributed.worker.multiprocessing-method"))
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{dashboard_port()}",
                worker_dashboard_address=None,
                memory_limit=0,  # tasks keep to their own budget, see `memory_budget`
                silence_logs=logging.CRITICAL,
                local_directory=folder,
                preload="voxelmill.worker",
                preload_nanny="voxelmill.nanny",
            )
        with local, Client(local) as client:
            introduce(client)
            yield client


@contextmanager
def scratch() -> Iterator[str]:
    """Yield a temporary folder for Dask's processes on this machine; remove it afterwards.

    Raises
    ------
    ConfigError
        If no temporary folder can be written.
    """
    stated = dask.config.get("temporary-directory", None)
    try:
        if stated is not None:
            Path(stated).mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix="voxelmill-", dir=stated, ignore_cleanup_errors=True)
    except OSError as error:
        where = f"Dask's temporary-directory {stated}" if stated else "no temporary folder"
        can = "cannot" if stated else "can"
        raise ConfigError(
            f"{where} {can} be written ({error.strerror}). Let TMPDIR, or temporary-directory in Dask's "
            "configuration, name one."
        ) from None
    with folder as path, dask.config.set({"temporary-directory": path}):  # a scheduler has no option for it
        yield path


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Replace Dask's exceptions at start-up with one line; `what` names what could not be started.

    Raises
    ------
    ConfigError
        With the first cause in Dask's chain of exceptions.
    ClusterLostError
        If Dask knows no cause, only that a process ended: the next try may succeed.
    """
    try:
        yield
    except (OSError, RuntimeError, TimeoutError, ValueError, LookupError, TypeError, AttributeError) as error:
        if is_own_fault(error):
            raise
        reason = first_cause(error)
        if reason == _DIED:
            raise ClusterLostError(
                f"{what} cannot be started: a process ended before it was ready, as one that is killed does. "
                "Run the same command again, perhaps with fewer workers or more memory."
            ) from None
        raise ConfigError(
            f"{what} cannot be started ({reason}). Mend that, or pass --cluster none."
        ) from None


def first_cause(error: BaseException) -> str:
    """Return the message of the first exception in a chain, in one line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    if isinstance(error, LookupError):  # an unknown value in Dask's configuration
        return f"unknown: {textwrap.shorten(str(error), 200, placeholder=' ...')}"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def dashboard_port() -> int:
    """Return 8787 if that port is free, else 0 for any port: Dask would warn, and leave a socket open."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8787))
        except OSError:
            return 0
        return 8787


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Block Ctrl-C here, and in processes started meanwhile until they change that themselves."""
    resource_tracker.ensure_running()  # started inside the block, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_main() -> Iterator[None]:
    """Keep processes that are started meanwhile from importing the program's main module.

    Tasks need nothing from it. A script that calls `voxelmill.run` at its top level would start itself
    again in every worker.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
