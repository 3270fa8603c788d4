"""The peak resident memory of this process, measured.

In: the kernel's own counters. Out: bytes.
"""

from __future__ import annotations

import resource
from pathlib import Path

PROC = Path("/proc/self")


class PeakMeter:
    """Peak resident memory of this process between `reset` and `peak_bytes`.

    On Linux the kernel keeps the peak, and `reset` restarts it. Elsewhere the peak counts from the start of
    the process.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new measurement."""
        try:
            (PROC / "clear_refs").write_text("5")
        except OSError:
            return

    def peak_bytes(self) -> int:
        """Return the largest resident memory since `reset` in bytes, on Linux without file-backed pages."""
        try:
            lines = (PROC / "status").read_text().splitlines()
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        kib = {
            line.split(":")[0]: int(line.split()[1])
            for line in lines
            if line.startswith(("VmHWM", "RssFile"))
        }
        return (kib["VmHWM"] - kib["RssFile"]) * 1024
