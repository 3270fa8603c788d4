"""What the system lets this process have: a home folder, open files, address space.

In: nothing but the process. Out: what is missing is mended where it can be, or told with what is needed.
Imports nothing large: some of it is asked before anything else is loaded.
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
"""Open files of a process without a cluster: 21 of its own, a reader's, the stores'."""

FILES_A_WORKER = 12
"""Open files of the process that starts workers, for each of them; 11 were counted."""

ADDRESSES = 2**30
ADDRESSES_A_WORKER = 2**27
"""Address space of a process, and more where it starts workers: libraries, stacks of threads; measured."""


def ensure_home() -> None:
    """A user whom the system knows nothing of, as in a container, and without HOME, gets one: `/`.

    Libraries ask for it, to look for their settings, and fail where there is none.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def open_files(workers: int) -> None:
    """Raise the limit of open files as far as this process may.

    Raises
    ------
    ConfigError
        If that is too little for so many workers.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS says there is no limit, and has one
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
    """Refuse to begin where libraries and threads have no room, which would end in a hang.

    Raises
    ------
    ConfigError
        If the limit is too low for a process with so many workers.
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
