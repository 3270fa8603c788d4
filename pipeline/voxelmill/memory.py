"""How much memory a task takes: measured afterwards, and modelled beforehand.

In: shapes and item sizes. Out: bytes. Resident memory without file-backed pages (libraries, mapped
sources), which is what a worker can run out of.
"""

from __future__ import annotations

import resource
from pathlib import Path

PROC = Path("/proc/self")


BASE_BYTES = 200 * 2**20
"""Resident memory of a worker process before its first task, with all libraries loaded; measured."""


def ingest_task_bytes(slab_voxels: int, itemsize: int, label_itemsize: int, channels: int) -> int:
    """Bytes of one ingest task, above the base.

    The slab as read and as stored, the shard it is encoded into and the encoded bytes, which Zarr holds
    twice; the label's slab, decoded; one histogram a channel.
    """
    slab = slab_voxels * (5 * itemsize + 3 * label_itemsize)
    return slab + channels * 2 * 65536 * 8


def shard_task_bytes(
    read_voxels: int, write_voxels: int, workspace: int, channels: int, itemsize: int, label_itemsize: int
) -> int:
    """Bytes of one preprocess task, above the base.

    The write box of all channels, its encoded shard, which Zarr holds twice, and the copy that pads it to
    whole chunks; one channel's read box as stored (decoded and joined), as float32, and the
    kernel's workspace.
    """
    write = write_voxels * (channels * 4 * 4 + 2 * label_itemsize)
    return write + read_voxels * (2 * itemsize + 4 + 2 * label_itemsize) + workspace


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
