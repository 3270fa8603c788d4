"""Dask's settings for voxelmill, from `dask.yaml`, and the set-up of every new client."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client
from distributed.security import Security

import voxelmill
from voxelmill.basics.errors import ConfigError
from voxelmill.kernels.numba_on_first_use import NO_CACHE
from voxelmill.runtime.same_versions import Versions
from voxelmill.runtime.step_progress import hear

logger = logging.getLogger("voxelmill")

DASK_CONFIG = Path(voxelmill.__file__).with_name("dask.yaml")


def dask_settings() -> dict[str, Any]:
    """Return the settings of `dask.yaml` by their dotted names."""
    (settings,) = dask.config.collect_yaml([str(DASK_CONFIG)])
    return dict(_flat(settings))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def security() -> Security | None:
    """Return the TLS security of connections, or None if Dask's configuration names no certificates.

    Raises
    ------
    ConfigError
        If a certificate cannot be read.
    """
    if not dask.config.get("distributed.comm.tls.ca-file", None):
        return None
    found = Security()
    try:
        found.get_connection_args("client")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"a certificate of distributed.comm.tls cannot be used ({reason}). Correct Dask's configuration."
        ) from None
    return found


def introduce(client: Client) -> None:
    """Check the versions of a cluster, log the dashboard's address, and forward voxelmill's messages.

    Messages and progress of tasks come out in this process. Messages of Dask do not.

    Raises
    ------
    ConfigError
        If the scheduler or a worker has other versions than this process.
    """
    versions = Versions(client)
    if unfit := versions.scheduler_differs() or versions.worker_differs():
        raise ConfigError(unfit)
    for name in ("distributed", "distributed.client"):  # Dask sets a level on both
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if "dashboard" in client.scheduler_info(n_workers=0)["services"]:
        logger.info("dashboard: %s", client.dashboard_link)
    client.forward_logging("voxelmill", logging.INFO)
    hear(client)


@contextmanager
def one_voice() -> Iterator[None]:
    """Let `NO_CACHE` through once: every worker on a machine without a compiler cache logs it."""
    heard: list[str] = []

    def is_new(record: logging.LogRecord) -> bool:
        if record.msg != NO_CACHE:
            return True
        heard.append(NO_CACHE)
        return len(heard) == 1

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
