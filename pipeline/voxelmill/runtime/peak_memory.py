"""The peak of resident memory of this process, measured.

In: nothing but what the kernel keeps. Out: bytes.
"""

from __future__ import annotations

import resource
from pathlib import Path

PROC = Path("/proc/self")


class PeakMeter:
    """Peak resident memory of this process between `reset` and `peak_bytes`.

    On Linux the kernel keeps the peak and can be told to start anew. Elsewhere it is the peak since the
    process began.
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
        """Largest resident memory since `reset`, bytes, without file-backed pages."""
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
