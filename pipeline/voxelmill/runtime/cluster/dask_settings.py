"""Dask's settings for voxelmill, from `dask.yaml`, and what every client does when it is connected."""

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
    """The settings, by their dotted names."""
    (settings,) = dask.config.collect_yaml([str(DASK_CONFIG)])
    return dict(_flat(settings))


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def security() -> Security | None:
    """What encrypts the connections, where Dask's own configuration names certificates (TLS).

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
    """Say where the dashboard is; what tasks have to say comes out here, what Dask has to say does not.

    Raises
    ------
    ConfigError
        If scheduler or workers have other versions than this process.
    """
    versions = Versions(client)
    if unfit := versions.scheduler_differs() or versions.worker_differs():
        raise ConfigError(unfit)
    for name in ("distributed", "distributed.client"):  # both have a level of their own by Dask's defaults
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if "dashboard" in client.scheduler_info(n_workers=0)["services"]:
        logger.info("dashboard: %s", client.dashboard_link)
    client.forward_logging("voxelmill", logging.INFO)
    hear(client)


@contextmanager
def one_voice() -> Iterator[None]:
    """What each worker says of its machine is heard once."""
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
