"""Identity of a process on a host, and whether that process still runs.

In: the operating system's list of processes. Out: a `Process`, and True, False or None. Processes of one host
see each other unless they are in different containers; for a process that cannot be seen, the answer is None.
This module knows no files of OUT.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from voxelmill.basics.record_base import Model


class Process(Model):
    """The identity of a process, with which other processes can find it.

    Attributes
    ----------
    host : str
        Name of the host.
    boot : str
        Boot id of the host and its pid namespace: processes that share both see each other. Empty if unknown.
    pid : int
        Process id.
    ticks : int
        Start of the process in clock ticks since boot: a pid can be reused, but not with the same ticks.
    """

    host: str
    boot: str
    pid: int = Field(gt=0, lt=2**31)
    ticks: int

    def look(self) -> bool | None:
        """Return whether the process runs, or None if that cannot be seen, or only that its pid is in use."""
        if not self.boot or (self.boot, self.host) != (_boot(), socket.gethostname()):
            return None
        try:
            with suppress(PermissionError):  # the process exists and belongs to another user
                os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        found = _state_and_ticks(self.pid)
        if found is None:  # /proc may hide other users' processes
            return None
        state, ticks = found
        return ticks == self.ticks and state not in "ZX"  # Z: it has ended, but its parent has not reaped it


def this_process() -> Process:
    """Return the identity of the calling process."""
    pid = os.getpid()
    found = _state_and_ticks(pid)
    if found is None:
        return Process(host=socket.gethostname(), boot="", pid=pid, ticks=0)
    return Process(host=socket.gethostname(), boot=_boot(), pid=pid, ticks=found[1])


def _state_and_ticks(pid: int) -> tuple[str, int] | None:
    """Return state and start (clock ticks since boot) of a process, or None if /proc does not show them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
