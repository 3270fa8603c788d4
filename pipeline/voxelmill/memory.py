"""How much memory a task takes: measured afterwards, and modelled beforehand.

In: shapes and item sizes. Out: bytes. Resident memory without file-backed pages (libraries, mapped
sources), which is what a worker can run out of.
"""

from __future__ import annotations

import resource
from pathlib import Path

PROC = Path("/proc/self")


BASE_BYTES = 175 * 2**20
"""Resident memory of a worker process with all libraries and compiled kernels loaded; measured."""


def ingest_task_bytes(slab_voxels: int, itemsize: int, label_itemsize: int, channels: int) -> int:
    """Bytes of one ingest task, above the base.

    The slab, its encoded shard, which Zarr holds twice while it is joined; the slab of the label as it is
    read back, and where it is foreground; histograms.
    """
    slab = slab_voxels * (3 * itemsize + (2 * label_itemsize + 1 if label_itemsize else 0))
    return slab + channels * 2 * 65536 * 8


def slab_task_bytes(slab_voxels: int, itemsize: int, label_itemsize: int) -> int:
    """Bytes of a task that goes through a case slab by slab again: a second pass over values, or a mask.

    The slab as stored, encoded and as float32; its label; and for a mask itself, encoded, and the runs of
    its background, which take up to six bytes a voxel.
    """
    return slab_voxels * (2 * itemsize + 4 + max(2 * label_itemsize + 1, 8))


def shard_task_bytes(
    read_voxels: int, write_voxels: int, workspace: int, channels: int, itemsize: int, label_itemsize: int
) -> int:
    """Bytes of one preprocess task, above the base: the larger of its two phases.

    Resampling holds the write box of all channels as float32, one channel's read box as float32, and
    beside them either that box as stored and encoded, or the kernel's workspace. Writing holds the write
    box and its encoded shard, which Zarr holds twice while it is joined.
    """
    write = 4 * channels * write_voxels
    resample = write + 4 * read_voxels + max(2 * itemsize * read_voxels, workspace)
    label = label_itemsize * (2 * read_voxels + 3 * write_voxels)
    return max(resample, 3 * write, write + label)


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
