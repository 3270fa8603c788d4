"""What the process that watches over a worker process does when it starts; Dask calls `dask_setup` by name.

When its worker process dies, it tells the scheduler how: the exit status, and whether the kernel has killed
processes for lack of memory meanwhile. `runtime.worker_deaths` makes words of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOPIC = "voxelmill-deaths"
_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_GROUP = re.compile(r"^\d+:(memory)?:(/.*)$", re.MULTILINE)


def dask_setup(nanny: Any) -> None:
    """Called once, before the worker process is started."""
    nanny._on_worker_exit_sync = _Listener(nanny, nanny._on_worker_exit_sync)


class _Listener:
    """Stands where Dask has its own function for the exit of a worker process, and calls it afterwards."""

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
    """Processes that the kernel has killed for lack of memory: of this machine, and of this control group."""
    return _count(Path("/proc/vmstat")), max(map(_count, _group_files()), default=0)


def _group_files() -> list[Path]:
    """Where control groups of version 2 and 1 keep their counts; in a container its own group is the root."""
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
