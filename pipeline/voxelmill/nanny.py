"""Preload script of the nannies, which watch the worker processes; Dask calls `dask_setup` by name.

When its worker process dies, a nanny reports to the scheduler: the exit status, and whether the kernel killed
processes for lack of memory while it ran. `runtime.worker_deaths` turns this into a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOPIC = "voxelmill-deaths"
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_GROUP = re.compile(r"^\d+:(memory)?:(/.*)$", re.MULTILINE)  # cgroup version 2 names no controller


def dask_setup(nanny: Any) -> None:
    """Install the listener; Dask calls this once, before it starts the worker process."""
    nanny._on_worker_exit_sync = _Listener(nanny, nanny._on_worker_exit_sync)


class _Listener:
    """Replaces Dask's callback for the exit of a worker process; it reports the death, then calls Dask's."""

    def __init__(self, nanny: Any, afterwards: Callable[[int], None]) -> None:
        self._nanny = nanny
        self._afterwards = afterwards
        self._kills = count_kills()

    def __call__(self, exitcode: int) -> None:
        kills = count_kills()
        if exitcode != 0 and self._nanny.worker_address is not None:
            rose = any(now > before for before, now in zip(self._kills, kills, strict=True))
            death = {"worker": self._nanny.worker_address, "exit": exitcode, "killed_for_memory": rose}
            self._nanny.log_event(TOPIC, death)
        self._kills = kills
        self._afterwards(exitcode)


def count_kills() -> tuple[int, int]:
    """Return how many processes the kernel killed for lack of memory: on this machine, in this cgroup."""
    return _count(Path("/proc/vmstat")), max(map(_count, _group_files()), default=0)


def _group_files() -> list[Path]:
    """Return the files in which cgroups of version 2 and 1 keep their counts.

    The root is included, because in a container the container's own cgroup appears as the root.
    """
    try:
        groups = _GROUP.findall(Path("/proc/self/cgroup").read_text())
    except OSError:
        return []
    found = []
    for controller, path in groups:
        root = Path("/sys/fs/cgroup", controller)
        name = "memory.oom_control" if controller else "memory.events"
        found += [root / path.lstrip("/") / name, root / name]
    return found


def _count(path: Path) -> int:
    try:
        counted = _KILLS.search(path.read_text())
    except OSError:
        return 0
    return int(counted[1]) if counted else 0
