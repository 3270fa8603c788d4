"""Which process of which host wrote a record, and whether it is still there.

In: nothing but what the operating system says of processes. Knows no files of OUT. Processes of one host see
each other unless they are in different containers; what cannot be seen is neither alive nor dead here.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from voxelmill.basics.record_base import Model


class Process(Model):
    """A process, as others can find it.

    Attributes
    ----------
    boot : str
        Start of the host and namespace of pids: processes with the same see each other. Empty if not known.
    pid : int
        Its number.
    ticks : int
        Clock ticks from the start of the host to that of the process: a pid may come again, not with these.
    """

    host: str
    boot: str
    pid: int = Field(gt=0, lt=2**31)
    ticks: int

    def look(self) -> bool | None:
        """Whether it is there; None where this process cannot see it, or sees only that its pid is in use."""
        if not self.boot or (self.boot, self.host) != (_boot(), socket.gethostname()):
            return None
        try:
            with suppress(PermissionError):  # another user's
                os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        found = _state_and_ticks(self.pid)
        if found is None:  # /proc may hide other users' processes
            return None
        state, ticks = found
        return ticks == self.ticks and state not in "ZX"  # Z: it was killed, and its parent has not looked


def this_process() -> Process:
    """The one that asks."""
    pid = os.getpid()
    found = _state_and_ticks(pid)
    if found is None:
        return Process(host=socket.gethostname(), boot="", pid=pid, ticks=0)
    return Process(host=socket.gethostname(), boot=_boot(), pid=pid, ticks=found[1])


def _state_and_ticks(pid: int) -> tuple[str, int] | None:
    """State and start of a process, or None where they are not to be had."""
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
