"""Connection to a cluster that is already running, by its scheduler's address or scheduler file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from warnings import catch_warnings

from distributed import Client
from distributed.versions import VersionMismatchWarning

from voxelmill.basics.errors import ConfigError
from voxelmill.runtime.cluster.dask_settings import introduce, security


@contextmanager
def join(scheduler: str) -> Iterator[Client]:
    """Yield a client of a running scheduler, encrypted if Dask's configuration names certificates.

    Parameters
    ----------
    scheduler : str
        Address, or path of a scheduler file, which ends in ".json".

    Raises
    ------
    ConfigError
        If the file holds no address, no scheduler answers, or the cluster has other versions.
    """
    address = _address_in(Path(scheduler)) if scheduler.endswith(".json") else scheduler
    try:
        with catch_warnings(action="ignore", category=VersionMismatchWarning):  # `introduce` is more precise
            client = Client(address, security=security())
    except (OSError, ValueError, TypeError, RuntimeError, LookupError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"--scheduler {scheduler}: no scheduler answers ({reason}). Start it, or correct the address."
        ) from None
    with client:
        introduce(client)
        yield client


def _address_in(file: Path) -> str:
    """Read the address from a scheduler file."""
    try:
        return str(json.loads(file.read_text())["address"])
    except OSError:
        raise ConfigError(f"--scheduler {file}: no such scheduler file. Start the scheduler first.") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"--scheduler {file}: is no scheduler file, which is JSON with an address."
        ) from None
