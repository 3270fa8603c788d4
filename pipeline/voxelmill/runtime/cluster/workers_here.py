"""Worker processes on this machine."""

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
"""All that Dask says of a worker process that ended by itself while it started."""


@contextmanager
def start_local(workers: int) -> Iterator[Client]:
    """Worker processes on this machine, reachable from nowhere else."""
    # Processes, not threads: a crash in a native library costs one worker, and Python code of one task
    # never waits for another's. Measured: 0.6 s more until the first task of two workers starts.
    with scratch() as folder:
        with starting("workers"), uninterrupted(), without_main(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Port .* is already in use")  # since `dashboard_port` looked
            # Where there is no such method, Dask 2025 (.1 and .12 were tried) waits for ever.
            get_context(dask.config.get("distributed.worker.multiprocessing-method"))
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{dashboard_port()}",
                worker_dashboard_address=None,
                memory_limit=0,
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
    """A folder for what Dask's processes on this machine keep; nothing of it stays behind.

    Raises
    ------
    ConfigError
        If there is no temporary folder that can be written.
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
    with folder as path, dask.config.set({"temporary-directory": path}):  # a scheduler knows no other word
        yield path


@contextmanager
def starting(what: str) -> Iterator[None]:
    """Whatever keeps Dask from starting something is told by Dask's own reason, in one line.

    Raises
    ------
    ConfigError
        With the first cause that Dask tells of.
    ClusterLostError
        If it tells of none: a process just ended, which the next try need not.
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
    """What the first of a chain of exceptions says, in one line."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    if isinstance(error, LookupError):  # a value in Dask's configuration that means nothing to Dask
        return f"unknown: {textwrap.shorten(str(error), 200, placeholder=' ...')}"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


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
