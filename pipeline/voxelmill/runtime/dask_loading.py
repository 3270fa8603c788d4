"""The first import of Dask, which reads its configuration files: a broken file is reported in one line."""

from __future__ import annotations

from voxelmill.basics.errors import ConfigError

try:
    import dask.config
except ValueError as error:  # Dask's message has the path of the file and what is wrong with it
    _said = " ".join(str(error).split())
    raise ConfigError(f"{_said}. Correct that file, or let DASK_CONFIG name another.") from None

__all__ = ["dask"]
