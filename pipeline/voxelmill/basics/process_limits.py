"""Limits of this process: home folder, open files, address space.

In: the number of workers. Out: a limit is raised where possible; otherwise a `ConfigError` says how much is
needed. This module imports nothing large, because some checks run before anything else is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path

from voxelmill.basics.errors import ConfigError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

FILES = 32
"""Open files of a process without a cluster: 21 of its own, and those of a reader and the stores."""

FILES_A_WORKER = 12
"""Open files per worker in the process that starts the workers; 11 were counted."""

ADDRESSES = 2**30
ADDRESSES_A_WORKER = 2**27
"""Measured address space of a process, and the addition per worker it starts, in bytes.

Libraries and thread stacks take it.
"""


def ensure_home() -> None:
    """Set HOME to `/` if the user has no home folder, as in a container with an unknown user id.

    Libraries look for their settings in the home folder and fail if there is none.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def open_files(workers: int) -> None:
    """Raise the soft limit of open files to the hard limit.

    Raises
    ------
    ConfigError
        If the limit is still too low for `workers` workers.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS reports no hard limit, but has one
            pass
    needed = FILES + FILES_A_WORKER * workers
    if soft != resource.RLIM_INFINITY and soft < needed:
        fewer = max(0, (soft - FILES) // FILES_A_WORKER)
        instead = f"--workers {fewer}" if fewer else "--cluster none"
        raise ConfigError(
            f"{workers} workers need {needed} open files, and a process here may have {soft} (ulimit -Hn). "
            f"Raise the limit, or pass {instead}."
        )


def check_address_space(workers: int) -> None:
    """Refuse to begin if the address space is too small for libraries and threads: the run would hang.

    Raises
    ------
    ConfigError
        If the limit is too low for a process with `workers` workers.
    """
    if resource is None:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = ADDRESSES + workers * ADDRESSES_A_WORKER
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise ConfigError(
            f"the address space of a process is limited to {soft >> 20} MiB (ulimit -v, or h_vmem of a batch "
            f"system), and {needed >> 20} MiB are needed. Raise it: --memory-limit is what limits memory."
        )
