"""The memory of a worker: modelled before a run, and divided among its tasks during the run.

In: shapes and item sizes. Out: bytes. All numbers are resident memory of one process without file-backed
pages (libraries, mapped sources), the memory that a worker can run out of. A worker takes `BASE_BYTES` plus
the memory of its tasks. The memory of a task is the sum of the terms that its function lists.
"""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxelmill.basics.errors import MemoryLimitError
from voxelmill.basics.record_base import Model
from voxelmill.basics.volume import Volume
from voxelmill.kernels.statistics.foreground_locations import LOCATIONS_BYTES
from voxelmill.kernels.statistics.histogram import BINS, COUNTED
from voxelmill.kernels.statistics.voxel_values import is_narrow
from voxelmill.storage.chunk_and_shard_shapes import RAW_SIDE, THICKNESS, slab_depth

BASE_BYTES = 206 * 2**20
"""Resident memory of a worker process with all libraries and compiled kernels loaded; measured."""

NANNY_BYTES = 128 * 2**20
"""Resident memory of the process that starts a worker process and restarts it when it dies; measured."""

HISTOGRAM_BYTES = 8 * BINS

MERGE_BYTES = 64 * 2**20
"""Bytes of histograms that one task merges, unless two cases have more."""

MOST_MERGED = 16
"""Most cases that one task merges."""

LONG_SECONDS = 0.005
"""A garbage collection takes fewer seconds than this if it only looks at what a task left."""

CHANNELS_TOGETHER = 8
"""Number of channels whose percentiles are computed in one pass."""

FINE_HISTOGRAMS = 3
"""Most fine histograms of a channel: one for each coarse bin that a percentile falls in."""

RAW_CHUNK = 2 * THICKNESS * RAW_SIDE**2
"""Voxels of a large chunk of the raw store: a side may be half as long again as `RAW_SIDE`."""


@dataclass(frozen=True)
class Memory:
    """The memory that a worker process may take.

    Attributes
    ----------
    limit : int or None
        Limit of one worker process in bytes, base included; None for no limit.
    threads : int
        Tasks that a worker runs at a time, if they fit.
    """

    limit: int | None = None
    threads: int = 1

    @property
    def available(self) -> int | None:
        """Bytes for all tasks of a worker together; None for no limit."""
        return None if self.limit is None else max(0, self.limit - BASE_BYTES)

    @property
    def budgets(self) -> tuple[int | None, ...]:
        """Bytes that one task may take, in order of preference: an equal share, then all of them."""
        if self.available is None:
            return (None,)
        return self.available // self.threads, self.available

    def worker_bytes(self, task: int) -> int:
        """Return the bytes of a worker that runs as many tasks of `task` bytes at a time as fit."""
        if self.available is None:
            return BASE_BYTES + self.threads * task
        return BASE_BYTES + max(1, min(self.threads, self.available // max(1, task))) * task

    @contextmanager
    def hold(self, task: int) -> Iterator[None]:
        """Reserve `task` bytes; wait until the other tasks of this process leave room for them."""
        with _held.changed:
            _held.changed.wait_for(lambda: self._has_room(task))
            _held.bytes += task
        try:
            yield
        finally:
            if threading.current_thread() is not threading.main_thread():  # a worker, not the user's script
                _collect()
            with _held.changed:
                _held.bytes -= task
                _held.changed.notify_all()

    def _has_room(self, task: int) -> bool:
        return self.available is None or _held.bytes == 0 or _held.bytes + task <= self.available


def _collect() -> None:
    """Free the memory of frames that exceptions keep alive, also exceptions inside libraries.

    A slow collection means that modules were loaded since the worker started. They stay loaded, so they are
    frozen, and later collections skip them.
    """
    start = time.perf_counter()
    gc.collect()
    if time.perf_counter() - start > LONG_SECONDS:
        gc.freeze()


class _Held:
    """Bytes that the tasks of this process have reserved."""

    def __init__(self) -> None:
        self.bytes = 0
        self.changed = threading.Condition()


_held = _Held()


class SlabCost(Model):
    """Bytes of a task that reads a volume slab by slab: a fixed part, and a part for each slice of a slab."""

    fixed: int
    per_slice: int
    step: int = 1
    """Slices that the source stores together."""

    def bytes(self, depth: int) -> int:
        """Return the bytes for slabs of `depth` slices."""
        return self.fixed + depth * self.per_slice

    def depth(self, shape: Sequence[int], memory: Memory) -> int:
        """Return the slices of a slab that fits, for a volume of `shape` (z, y, x); 0 if no slice fits."""
        depths = (slab_depth(shape[0], self.per_slice, self.fixed, b, self.step) for b in memory.budgets)
        return next((depth for depth in depths if depth > 0), 0)

    def fitting_depth(self, shape: Sequence[int], memory: Memory) -> int:
        """Return `depth`, or refuse a volume of which no slice fits.

        Raises
        ------
        MemoryLimitError
            If not even one slice fits.
        """
        depth = self.depth(shape, memory)
        if depth == 0:
            raise too_little(f"a slice of {shape[1]} x {shape[2]} voxels", self.bytes(1), memory)
        return depth


def too_little(what: str, task: int, memory: Memory, otherwise: str = "") -> MemoryLimitError:
    """Return the error for a task of `task` bytes that does not fit; `otherwise` is further advice."""
    needed, given = BASE_BYTES + task, memory.limit or 0
    return MemoryLimitError(
        f"{what} needs a worker of {_mib(needed)}, --memory-limit is {_mib(given)}. "
        f"Pass --memory-limit {_mib(needed)}, or more.{otherwise}"
    )


def _mib(count: int) -> str:
    return f"{-(-count // 2**20)}MiB"


def image_cost(volume: Volume, channels: int, dtype: np.dtype[Any], has_label: bool) -> SlabCost:
    """Return the memory of ingesting an image that is stored as `dtype`, in a case of `channels` channels.

    For each slice of a slab: the slice as read, a copy if it is stored as another type, and the foreground of
    the label. Fixed: the reader's own memory; one slice in C order while it is scanned, for types of more
    than 16 bits also as float32, rescaled in float64, and its finite mask; a chunk, its copy and its encoded
    bytes; two histograms for each channel.
    """
    plane, item = math.prod(volume.geometry.shape[1:]), dtype.itemsize
    is_rescaled = (volume.slope, volume.intercept) != (1.0, 0.0)
    scan = plane * (item + (0 if is_narrow(dtype) else 5 + 16 * is_rescaled))
    converted = 0 if dtype == volume.dtype else volume.together * plane * item
    return SlabCost(
        fixed=volume.extra_bytes + scan + 3 * RAW_CHUNK * item + 2 * channels * HISTOGRAM_BYTES,
        per_slice=volume.slice_bytes + converted + has_label * plane,
        step=volume.step,
    )


def label_cost(volume: Volume, dtype: np.dtype[Any]) -> SlabCost:
    """Return the memory of ingesting a label that is stored as `dtype`.

    For each slice of a slab: the slice as read, and a copy if it is stored as another type. Fixed: the
    reader's own memory; one slice while it is rounded; labels while they are counted; a chunk, its copy and
    its encoded bytes; a sample of the foreground.
    """
    plane, item = math.prod(volume.geometry.shape[1:]), dtype.itemsize
    rounded = plane * (0 if dtype == volume.dtype else 28)  # three arrays of float64, and masks
    return SlabCost(
        fixed=volume.extra_bytes + rounded + 32 * COUNTED + 3 * RAW_CHUNK * item + LOCATIONS_BYTES,
        per_slice=volume.slice_bytes + (0 if dtype == volume.dtype else plane * item),
        step=volume.step,
    )


def read_bytes(itemsize: int, slices: int, in_place: SlabCost | None) -> int:
    """Return the bytes held beside a box while it is read.

    A chunk of the raw store, encoded and decoded, or the memory of the source if it is read in place. Also
    the facts of the case as JSON values, for `slices` slices, summed over axes and channels.
    """
    return (2 * RAW_CHUNK * itemsize if in_place is None else in_place.bytes(1)) + 300 * slices


def values_cost(plane: int, has_label: bool, reading: int) -> SlabCost:
    """Return the memory of a second pass over the values of a channel, with `plane` voxels per slice.

    For each slice of a slab: its values and its foreground. Fixed: `reading` bytes; one slice as values,
    keys and foreground; histograms.
    """
    return SlabCost(fixed=reading + 10 * plane + 8 * HISTOGRAM_BYTES, per_slice=plane * (4 + has_label))


def mask_cost(plane: int, reading: int) -> SlabCost:
    """Return the memory of filling the holes of a mask, with `plane` voxels per slice.

    For each slice of a slab: its mask twice, the next slab's, and the scanned one; runs of background, which
    take up to six bytes a voxel in noise, and almost nothing in bodies. Fixed: `reading` bytes.
    """
    return SlabCost(fixed=reading, per_slice=plane * (4 + 6))


def fan_in(histograms: int) -> int:
    """Return how many cases of `histograms` histograms one task merges: as memory allows, at least two."""
    return max(2, min(MOST_MERGED, MERGE_BYTES // (histograms * HISTOGRAM_BYTES)))


def merge_bytes(channels: int, cases: int) -> int:
    """Return the bytes of merging histograms, coarse or fine: inputs, their sum, and that sum in transit."""
    counts = (channels, FINE_HISTOGRAMS * min(channels, CHANNELS_TOGETHER))
    return max((min(cases, fan_in(n)) + 2) * n * HISTOGRAM_BYTES for n in counts)


def shard_bytes(
    read: int,
    write: int,
    workspace: int,
    reading: int,
    label: int,
    gathered: int,
    chunk: int,
    has_mask: bool,
) -> int:
    """Return the bytes of computing one piece of a shard, the image first, then the label.

    Image: one channel's read box (`read` voxels) and write box (`write` voxels) as float32, the kernel's
    workspace, and `reading` bytes. Label (`label` bytes per voxel): both boxes, `gathered` voxels between
    them, and `reading` bytes. In addition the mask of the read box, and a chunk of the output (`chunk`
    voxels) with its copy and its encoded bytes.
    """
    image = 4 * (read + write) + workspace + reading
    of_label = label * (read + write + gathered) + reading
    return max(image, of_label) + (read if has_mask else 0) + 12 * chunk
